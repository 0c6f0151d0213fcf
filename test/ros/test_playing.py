"""How long a frame waited and how old it was, in seconds that really passed."""

from __future__ import annotations

import pytest

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.ros.playing import ReplayOptions, Showing, wait_until

FRAME = Frame("q", "bag", "/i", 0, 0, "camera", "go", "bag-1", 0, lambda: None, lambda: None)  # type: ignore[arg-type, return-value]


def test_a_frame_that_was_stamped_when_it_was_sent_waits_from_then_on() -> None:
    showing = Showing(FRAME, shown_sec=100.0)
    assert showing.waited_sec(100.25) == pytest.approx(0.25)
    assert showing.age_sec(0.125) == pytest.approx(0.125)


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0])
def test_the_recorded_delay_is_as_long_at_any_rate(rate: float) -> None:
    """A node that takes 0.2 s takes them at each rate, and its clock goes on by as many more."""
    showing = Showing(FRAME, shown_sec=100.0, delay_sec=0.03, clock_rate=rate)
    assert showing.waited_sec(100.2) == pytest.approx(0.23)
    assert showing.age_sec(0.03 + 0.2 * rate) == pytest.approx(0.23)


@pytest.mark.parametrize("name", ["rate", "most_gap_sec", "answer_sec"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=name):
        ReplayOptions(**{name: value})


def test_a_player_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="auto, ros2bag, own"):
        ReplayOptions(player="rosbag")


def test_what_does_not_become_true_is_told() -> None:
    with pytest.raises(TimeoutError, match="nobody came"):
        wait_until(lambda: False, 0.0, "nobody came")
