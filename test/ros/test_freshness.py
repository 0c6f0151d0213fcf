"""Ages of query images, and which earlier answer serves which request."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros import freshness
from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval.ros.frames import Frame
from vla_retrieval.ros.freshness import LastAnswers, check_stale, image_age_sec
from vla_retrieval_msgs.msg import Filter, Match, MatchArray
from vla_retrieval_msgs.srv import Retrieve

SECOND = 1_000_000_000


def frame(stamp_ns: int, received_ns: int, held_sec: float = 0.0) -> Frame:
    """Return a frame that came so long ago by the steady clock."""
    image = Image(header=Header(stamp=to_stamp(stamp_ns)))
    return Frame(image, 1, received_ns, time.monotonic() - held_sec)


@pytest.mark.parametrize(
    ("stamp_ns", "received_ns", "age_sec"),
    [
        (7 * SECOND, 9 * SECOND, 3.0),  # since it was seen, not since it came
        (0, 9 * SECOND, 1.0),  # a camera that stamps nothing
        (12 * SECOND, 9 * SECOND, 1.0),  # a camera whose clock is ahead: since it came
    ],
)
def test_a_frame_is_as_old_as_its_stamp(stamp_ns: int, received_ns: int, age_sec: float) -> None:
    """Or as its receipt, where it has none or one that has not come yet."""
    seen = frame(stamp_ns, received_ns, held_sec=1.0)
    age = image_age_sec(seen.header, seen, 10 * SECOND)
    assert age == pytest.approx(age_sec, abs=0.5)


@pytest.mark.parametrize("now_ns", [0, 5 * SECOND, 9 * SECOND, 10**18])
def test_setting_the_clock_does_not_age_a_frame_that_is_held(now_ns: int) -> None:
    """Back or forth: how long it was held is measured on a clock that nobody sets."""
    seen = frame(7 * SECOND, 9 * SECOND, held_sec=1.0)
    assert image_age_sec(seen.header, seen, now_ns) == pytest.approx(3.0, abs=0.5)


@pytest.mark.parametrize(
    ("now_ns", "age_sec"),
    [
        (9 * SECOND, 2.0),  # simulated time stands still, whatever time passes
        (29 * SECOND, 22.0),  # it runs faster, or jumps forward
        (3 * SECOND, 102.0),  # the bag started over: the frame is of a time that has not come
        (8 * SECOND, 102.0),
    ],
)
def test_in_simulated_time_a_frame_ages_with_the_simulation_until_it_starts_over(
    now_ns: int, age_sec: float
) -> None:
    seen = frame(7 * SECOND, 9 * SECOND, held_sec=100.0)
    age = image_age_sec(seen.header, seen, now_ns, simulated=True)
    assert age == pytest.approx(age_sec, abs=0.5)


def test_in_simulated_time_a_frame_without_a_stamp_is_as_old_as_its_receipt() -> None:
    """And not as old as the epoch."""
    seen = frame(0, 9 * SECOND)
    assert image_age_sec(seen.header, seen, 29 * SECOND, simulated=True) == 20.0


@given(
    stamp_ns=st.integers(0, 2**62), received_ns=st.integers(0, 2**62),
    now_ns=st.integers(0, 2**62), simulated=st.booleans(), own=st.booleans(),
)  # fmt: skip
def test_no_image_is_ever_younger_than_new(
    stamp_ns: int, received_ns: int, now_ns: int, simulated: bool, own: bool
) -> None:
    """Whatever three clocks say, the age is not below 0; without a stamp it may be unknown."""
    seen = frame(stamp_ns, received_ns)
    age = image_age_sec(seen.header, None if own else seen, now_ns, simulated=simulated)
    assert age >= 0 or (math.isnan(age) and own and not stamp_ns)


def test_without_an_image_or_a_time_there_is_no_age() -> None:
    """Not zero, which would be a very new one."""
    assert math.isnan(image_age_sec(None, None, SECOND))
    assert math.isnan(image_age_sec(Header(), None, SECOND))


def ask(**fields: object) -> Retrieve.Request:
    """Return a request that accepts a stale answer."""
    return Retrieve.Request(**{"instruction": "cup", "accept_stale": True, **fields})


def test_an_earlier_answer_serves_the_same_request_whatever_its_deadline() -> None:
    """And no other one."""
    answers = LastAnswers()
    answers.put(ask(timeout_sec=1.0), MatchArray(memory_size=7), SECOND)
    found = answers.get(ask(timeout_sec=0.5), SECOND)
    assert found is not None
    assert (found.memory_size, found.stale) == (7, True)
    for other in (
        ask(instruction="bowl"), ask(k=3), ask(use_newest_frame=True), ask(accept_stale=False),
        ask(filter=Filter(tags=["red"])),
    ):  # fmt: skip
        assert answers.get(other, SECOND) is None


def test_the_kept_answer_stays_as_it_was() -> None:
    """What is marked as stale is a copy: the same message may still be on its way."""
    answers = LastAnswers()
    answer = MatchArray(image_age_sec=1.0)
    answers.put(ask(), answer, SECOND)
    found = answers.get(ask(), SECOND)
    assert found is not None
    assert found.image_age_sec >= 1.0
    assert not answer.stale


def test_the_image_of_an_earlier_answer_has_aged_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a stale answer sees how stale it is."""
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(freshness, "time", clock)
    answers = LastAnswers()
    answers.put(ask(), MatchArray(image_age_sec=1.0), SECOND)
    clock.monotonic = lambda: 107.0
    found = answers.get(ask(), SECOND)
    assert found is not None
    assert found.image_age_sec == 8.0


@pytest.mark.parametrize(
    ("now_ns", "age_sec"),
    [
        (9 * SECOND, 1.0),  # simulated time stands still
        (29 * SECOND, 21.0),  # it jumps
        (3 * SECOND, 8.0),  # the bag started over
    ],
)
def test_in_simulated_time_an_earlier_answer_ages_with_the_simulation_until_it_starts_over(
    now_ns: int, age_sec: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a frame does."""
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(freshness, "time", clock)
    answers = LastAnswers()
    answers.put(ask(), MatchArray(image_age_sec=1.0), 9 * SECOND)
    clock.monotonic = lambda: 107.0
    found = answers.get(ask(), now_ns, simulated=True)
    assert found is not None
    assert found.image_age_sec == age_sec


def test_answers_nobody_would_take_stale_are_not_kept() -> None:
    """They cost nothing."""
    answers = LastAnswers()
    answers.put(ask(accept_stale=False), MatchArray(), SECOND)
    assert answers.get(ask(), SECOND) is None


def test_only_the_last_requests_are_kept() -> None:
    """A planner that never asks twice does not fill the RAM."""
    answers = LastAnswers()
    for n in range(100):
        answers.put(ask(instruction=f"task {n}"), MatchArray(memory_size=n), SECOND)
    assert answers.get(ask(instruction="task 0"), SECOND) is None
    assert answers.get(ask(instruction="task 99"), SECOND) is not None


def test_a_request_that_is_asked_again_is_not_the_first_to_go() -> None:
    """A planner that repeats one question among many others has its last answer."""
    answers = LastAnswers()
    others = [ask(instruction=f"task {n}") for n in range(70)]
    for request in (ask(), *others[:60], ask(), *others[60:]):
        answers.put(request, MatchArray(), SECOND)
    assert answers.get(others[0], SECOND) is None
    assert answers.get(ask(), SECOND) is not None


@pytest.mark.parametrize(("matches", "kept"), [(4_000, 2), (20_000, 1)])
def test_fewer_are_kept_where_they_are_large(matches: int, kept: int) -> None:
    """The last one always is."""
    answers = LastAnswers()
    for n in range(3):
        answer = MatchArray(matches=[Match()] * matches)
        answers.put(ask(instruction=f"task {n}"), answer, SECOND)
    found = [answers.get(ask(instruction=f"task {n}"), SECOND) is not None for n in range(3)]
    assert found == [False] * (3 - kept) + [True] * kept


@pytest.mark.parametrize(
    "fields",
    [{"image": Image(width=1)}, {"compressed_image": CompressedImage(data=b"x")}],
)
def test_a_request_with_an_image_of_its_own_cannot_accept_a_stale_answer(
    fields: dict[str, object],
) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInputError) as caught:
        check_stale(ask(**fields))
    assert caught.value.field == "accept_stale"


def test_nothing_is_kept_or_looked_for_by_the_pixels_of_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That would hold up every thread of the node."""
    monkeypatch.setattr(freshness, "_key", MagicMock(side_effect=AssertionError("a key of pixels")))
    answers = LastAnswers()
    for fields in ({"image": Image(width=1)}, {"compressed_image": CompressedImage(data=b"x")}):
        answers.put(ask(**fields), MatchArray(), SECOND)
        assert answers.get(ask(**fields), SECOND) is None
