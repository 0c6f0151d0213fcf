"""What goes through a message comes back as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from geometry_msgs.msg import PointStamped, PoseStamped
from hypothesis import given
from hypothesis import strategies as st
from std_msgs.msg import Header

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory.results import DirectionStats, HeadStats, IndexStats, MemoryStats
from vla_retrieval.ros import conversions
from vla_retrieval.types import (
    Action,
    CameraPose,
    Entry,
    Filter,
    Fingerprint,
    Known,
    Match,
    Nearby,
    Outcome,
    Query,
    Retrieval,
    Similarity,
    StageTimes,
    Target,
)
from vla_retrieval_msgs import msg as messages
from vla_retrieval_msgs.srv import GetStats, Remember

STAMPS = st.integers(1, 2**31 * 10**9 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
RADII = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)
FINITE = st.floats(-1e6, 1e6, width=32)


@given(stamp_ns=STAMPS)
def test_stamps_keep_every_nanosecond(stamp_ns: int) -> None:
    assert conversions.to_ns(conversions.to_stamp(stamp_ns)) == stamp_ns


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("filter.stamp_from", messages.Filter(stamp_from=Time(nanosec=10**9))),
        ("filter.stamp_to", messages.Filter(stamp_to=Time(nanosec=10**9))),
        ("image.header.stamp", Remember.Request(instruction="x")),
        (
            "camera_pose.header.stamp",
            Remember.Request(
                instruction="x", has_camera_pose=True,
                camera_pose=PoseStamped(header=Header(stamp=Time(nanosec=10**9))),
            ),
        ),
    ],
)  # fmt: skip
def test_a_stamp_whose_nanoseconds_are_a_second_or_more_is_refused(
    field: str, request_: Any
) -> None:
    """Seconds and nanoseconds were put in each other's place, or milliseconds were meant."""
    wrong = 10**9 if field.startswith("image") else 0
    header = Header(stamp=Time(sec=5, nanosec=wrong))
    said = rf"{field}\.nanosec: expected less than 1000000000"
    with pytest.raises(InvalidInputError, match=said):
        _convert(request_, header)


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("filter.stamp_from", messages.Filter(stamp_from=Time(sec=-1))),
        ("filter.stamp_to", messages.Filter(stamp_to=Time(sec=-1))),
        ("image.header.stamp", Remember.Request(instruction="x")),
    ],
)
def test_a_stamp_before_1970_is_refused(field: str, request_: Any) -> None:
    header = Header(stamp=Time(sec=-1 if field.startswith("image") else 5))
    with pytest.raises(InvalidInputError, match=rf"{field}\.sec: expected 0 or more, got -1"):
        _convert(request_, header)


def _convert(request_: Any, header: Header) -> object:
    if isinstance(request_, messages.Filter):
        return conversions.to_filter(request_)
    return conversions.to_new_entry(request_, header)


@pytest.mark.parametrize("stamp_ns", [2**31 * 10**9, 2**63 - 1])
def test_an_entry_stamped_later_than_messages_can_say_has_the_last_stamp_they_can(
    stamp_ns: int,
) -> None:
    stamp = conversions.to_stamp(stamp_ns)
    assert (stamp.sec, stamp.nanosec) == (2**31 - 1, 999_999_999)


@given(
    first=st.none() | STAMPS,
    last=st.none() | STAMPS,
    names=st.lists(NAMES, max_size=3),
    outcomes=st.lists(st.sampled_from(Outcome), max_size=3),
    metadata=st.dictionaries(NAMES, NAMES, max_size=3),
    excluded=st.lists(st.integers(0, 2**64 - 1), max_size=3),
    near=st.none() | st.builds(Nearby, st.tuples(DOUBLES, DOUBLES, DOUBLES), RADII, NAMES),
)
def test_a_filter_that_was_understood_is_repeated_in_the_answer(
    first: int | None,
    last: int | None,
    names: list[str],
    outcomes: list[Outcome],
    metadata: dict[str, str],
    excluded: list[int],
    near: Nearby | None,
) -> None:
    if first is not None and last is not None:
        first, last = min(first, last), max(first, last)
    given_filter = Filter(
        first, last, tuple(names), tuple(outcomes), tuple(names), tuple(names), metadata,
        tuple(excluded), near,
    )  # fmt: skip
    query = Query(instruction="x", filter=given_filter)
    nothing = Retrieval((), 0, 0, exact=True, times=StageTimes())
    answer = conversions.to_match_array(query, nothing, Header(), Similarity.COSINE, "model")
    assert conversions.to_filter(answer.query.filter) == given_filter


@given(
    values=st.lists(FINITE, min_size=1, max_size=6),
    position=st.tuples(FINITE, FINITE, FINITE),
    orientation=st.tuples(FINITE, FINITE, FINITE, st.floats(0.5, 1, width=32)),
    tags=st.lists(NAMES.filter(bool), unique=True, max_size=3),
    metadata=st.dictionaries(NAMES.filter(bool), NAMES, max_size=3),
    stamp_ns=STAMPS,
    outcome=st.sampled_from(Outcome),
    pinned=st.booleans(),
    merged=st.integers(0, 2**63 - 1),
)
def test_a_remembered_entry_is_read_back_as_it_was_sent(
    values: list[float],
    position: tuple[float, float, float],
    orientation: tuple[float, float, float, float],
    tags: list[str],
    metadata: dict[str, str],
    stamp_ns: int,
    outcome: Outcome,
    pinned: bool,
    merged: int,
) -> None:
    entry = Entry(
        instruction="拿起杯子",
        stamp_ns=stamp_ns,
        frame_id="camera",
        episode_id="e",
        outcome=outcome,
        action=Action("ee", (len(values),), np.array(values, np.float32)),
        camera_pose=CameraPose("map", stamp_ns, position, orientation),
        tags=tuple(tags),
        metadata=metadata,
        pinned=pinned,
        entry_id=7,
        merged=merged,
    )
    sent = conversions.to_entry_message(entry)
    request = Remember.Request(
        instruction=sent.instruction, episode_id=sent.episode_id, outcome=sent.outcome,
        action=sent.action, has_camera_pose=sent.has_camera_pose, camera_pose=sent.camera_pose,
        tags=sent.tags, metadata=sent.metadata, pinned=sent.pinned,
    )  # fmt: skip
    header = Header(stamp=sent.stamp, frame_id=sent.frame_id)
    back = conversions.to_new_entry(request, header)
    assert conversions.to_entry_message(Entry(**vars(back), entry_id=7, merged=merged)) == sent
    assert (sent.pinned, sent.merged) == (pinned, merged)
    for name, value in vars(back).items():
        expected = getattr(entry, name)
        if name == "action":  # arrays do not compare as a whole
            value, expected = str(value), str(expected)
        assert value == expected, name


def test_a_thumbnail_goes_as_a_jpeg_with_the_stamp_and_frame_of_its_scene() -> None:
    entry = Entry("x", stamp_ns=5 * 10**9 + 7, frame_id="camera", thumbnail=b"picture", entry_id=1)
    match = Match(entry, 1, 0.5, 0.5, math.nan)
    for message in (conversions.to_entry_message(entry), conversions.to_match_message(match)):
        picture = message.thumbnail
        assert (picture.format, bytes(picture.data)) == ("jpeg", b"picture")
        assert conversions.to_ns(picture.header.stamp) == entry.stamp_ns
        assert picture.header.frame_id == "camera"
    without = conversions.to_entry_message(Entry("x", stamp_ns=1, entry_id=1))
    assert without.thumbnail == messages.Entry().thumbnail


def test_what_one_match_says_is_not_in_the_next_one() -> None:
    """They are copies of one message."""
    full = Entry(
        "x", stamp_ns=5 * 10**9, frame_id="camera", episode_id="e", outcome=Outcome.SUCCESS,
        action=Action("joints", (2,), np.array([1, 2], np.float32)),
        camera_pose=CameraPose("map", 7, (1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)),
        tags=("a",), metadata={"k": "v"}, thumbnail=b"picture", entry_id=1,
    )  # fmt: skip
    plain = Entry("y", stamp_ns=0, entry_id=2)
    first = conversions.to_match_message(Match(full, 1, 0.5, 0.5, 0.5))
    second = conversions.to_match_message(Match(plain, 2, 0.25, 0.25, 0.25))
    assert (first.instruction, list(first.tags), first.has_camera_pose) == ("x", ["a"], True)
    assert second == messages.Match(
        entry_id=2, rank=2, score=0.25, scene_score=0.25, instruction_score=0.25, instruction="y"
    )


def test_a_query_with_a_filter_leaves_nothing_in_the_next_one() -> None:
    nothing = Retrieval((), 0, 0, exact=True, times=StageTimes())

    def sent(query: Query) -> messages.Query:
        answer = conversions.to_match_array(query, nothing, Header(), Similarity.COSINE, "m")
        return answer.query

    some = sent(Query(instruction="x", filter=Filter(tags=("a",), exclude_ids=(3,)), k=3))
    assert (list(some.filter.tags), list(some.filter.exclude_ids), some.k) == (["a"], [3], 3)
    assert sent(Query(instruction="y")).filter == messages.Filter()


@pytest.mark.parametrize("half", [{"shape": [3]}, {"values": [1.0]}])
def test_half_an_action_is_refused_and_not_taken_for_none(half: dict[str, object]) -> None:
    request = Remember.Request(instruction="x", action=messages.ActionPayload(**half))
    with pytest.raises(InvalidInputError, match=r"action\."):
        conversions.to_new_entry(request, Header())


def test_an_answer_carries_query_scores_sizes_and_times() -> None:
    entry = Entry(instruction="x", stamp_ns=1, entry_id=3)
    query = Query(
        image=np.zeros((2, 2, 3), np.uint8), instruction="x", target=Target.PAIR,
        scene_weight=0.25, k=9, min_score=0.125, diversity=0.5,
    )  # fmt: skip
    times = StageTimes(search_sec=0.5, total_sec=2.0)
    retrieval = Retrieval((Match(entry, 1, 0.5, 0.25, math.nan),), 8, 4, exact=True, times=times)
    header = Header(stamp=conversions.to_stamp(12), frame_id="camera")
    answer = conversions.to_match_array(query, retrieval, header, Similarity.DOT, "ViT-B-32", 1.5)
    assert (answer.header, answer.image_age_sec) == (header, 1.5)
    assert answer.query.target == messages.Query.TARGET_PAIR
    assert (answer.query.has_image, answer.query.instruction) == (True, "x")
    assert (answer.query.scene_weight, answer.query.k, answer.query.min_score) == (0.25, 9, 0.125)
    assert (answer.query.similarity, answer.query.model) == ("dot", "ViT-B-32")
    assert answer.query.diversity == 0.5
    assert (answer.memory_size, answer.eligible_size, answer.exact) == (8, 4, True)
    assert (answer.times.search_sec, answer.times.total_sec) == (0.5, 2.0)
    (match,) = answer.matches
    assert (match.entry_id, match.rank, match.score, match.scene_score) == (3, 1, 0.5, 0.25)
    assert math.isnan(match.instruction_score)
    assert answer.known == messages.MatchArray.KNOWN_NOT_CALIBRATED
    assert math.isnan(answer.known_confidence)


@pytest.mark.parametrize("target", Target)
def test_a_target_has_the_number_of_the_message_on_both_ways(target: Target) -> None:
    number = getattr(messages.Query, f"TARGET_{target.name}")
    query = Query(image=np.zeros((2, 2, 3), np.uint8), instruction="x", target=target)
    nothing = Retrieval((), 0, 0, exact=True, times=StageTimes())
    answer = conversions.to_match_array(query, nothing, Header(), Similarity.COSINE, "m")
    assert answer.query.target == number
    assert conversions.to_target(number) is target


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_has_the_number_of_the_message(outcome: Outcome) -> None:
    number = getattr(messages.Entry, f"OUTCOME_{outcome.name}")
    assert conversions.to_outcome(number) is outcome
    entry = Entry("x", stamp_ns=1, outcome=outcome, entry_id=1)
    assert conversions.to_entry_message(entry).outcome == number


@pytest.mark.parametrize("known", Known)
def test_what_is_known_has_the_number_of_the_message(known: Known) -> None:
    retrieval = Retrieval((), 8, 8, True, StageTimes(), known, 0.75)
    query = Query(instruction="x")
    answer = conversions.to_match_array(query, retrieval, Header(), Similarity.COSINE, "m")
    assert answer.known == getattr(messages.MatchArray, f"KNOWN_{known.name}")
    assert answer.known_confidence == 0.75


def test_a_query_that_lets_every_score_pass_fits_into_a_message() -> None:
    query = Query(instruction="x")
    retrieval = Retrieval((), 0, 0, exact=True, times=StageTimes())
    answer = conversions.to_match_array(query, retrieval, Header(), Similarity.COSINE, "m")
    assert math.isfinite(answer.query.min_score)


def test_an_answer_names_the_head_that_gave_it() -> None:
    query = Query(instruction="x")
    for head, method, shown in (("sha256:" + "0123456789abcdef" * 4, "joint", "0123456789ab"),
                                ("", "", "")):  # fmt: skip
        retrieval = Retrieval((), 8, 8, True, StageTimes(), head=head, head_method=method)
        answer = conversions.to_match_array(query, retrieval, Header(), Similarity.COSINE, "m")
        assert (answer.head_method, answer.head_digest) == (method, shown)


def test_stats_say_which_head_is_in_use_and_which_is_wanted() -> None:
    one = HeadStats("sha256:" + "1" * 64, "joint", 8, 0)
    other = HeadStats("sha256:" + "2" * 64, "hash", 8, 64)
    for head, wanted, named, switching in (
        (None, None, ("", "", "", ""), False),
        (one, one, ("joint", "1" * 12, "joint", "1" * 12), False),
        (one, other, ("joint", "1" * 12, "hash", "2" * 12), True),
        (None, one, ("", "", "joint", "1" * 12), True),
        (one, None, ("joint", "1" * 12, "", ""), True),
    ):
        index = IndexStats("exact", 9, 2, 5, (), "a snapshot", 3, "", head, wanted)
        stats = MemoryStats(
            7, 6, None, None, 5, 4, Similarity.DOT, Fingerprint("m", "w", "p", 8), Path("/m"), index
        )
        response = GetStats.Response()
        conversions.fill_stats(response, stats)
        assert named == (
            response.head_method, response.head_digest,
            response.wanted_head_method, response.wanted_head_digest,
        )  # fmt: skip
        assert response.head_switching is switching


def test_an_answer_that_may_have_missed_some_says_so() -> None:
    retrieval = Retrieval((), 8, 8, exact=False, times=StageTimes())
    query = Query(instruction="x")
    answer = conversions.to_match_array(query, retrieval, Header(), Similarity.COSINE, "m")
    assert not answer.exact


def test_a_point_counts_only_where_it_is_said_to() -> None:
    message = _near(1.0)
    message.has_near = False
    assert conversions.to_filter(message).passes_all


def test_stats_carry_what_the_index_says() -> None:
    direction = DirectionStats("scene", "instruction", "scene", 128, 0.5)
    index = IndexStats("pq", 9, 2, 5 << 30, (direction,), "a snapshot", 3, "disk full")
    stats = MemoryStats(
        7, 6 << 40, None, 2**40, 5, 4, Similarity.DOT, Fingerprint("m", "w", "p", 8),
        Path("/memory"), index, 1, 3,
    )  # fmt: skip
    response = GetStats.Response()
    conversions.fill_stats(response, stats)
    assert (response.memory_dir, response.similarity) == ("/memory", "dot")
    assert (response.memory_size, response.size_bytes) == (7, 6 << 40)
    assert (conversions.to_ns(response.oldest_stamp), response.merged, response.evicted) == (
        0,
        5,
        4,
    )
    assert (response.evicted_over_entries, response.evicted_over_bytes) == (1, 3)
    assert conversions.to_ns(response.newest_stamp) == 2**40
    assert (response.index_kind, response.index_ram_bytes) == ("pq", 5 << 30)
    assert (response.index_rows, response.index_dead_rows) == (9, 2)
    assert response.index_error == "disk full"
    assert response.index_directions == [
        messages.IndexDirection(
            source="scene", target="instruction", beside="scene", depth=128, recall=0.5
        )
    ]


def _near(radius_m: float, x: float = 0.0) -> messages.Filter:
    near = PointStamped(header=Header(frame_id="map"))
    near.point.x = x
    return messages.Filter(has_near=True, near=near, near_radius_m=radius_m)


@pytest.mark.parametrize(
    ("convert", "field"),
    [
        (lambda: conversions.to_target(3), "target"),
        (lambda: conversions.to_outcome(3), "outcome"),
        (lambda: conversions.to_metadata([KeyValue(key="a"), KeyValue(key="a")]), "metadata"),
        (lambda: conversions.to_filter(messages.Filter(outcomes=[9])), "filter.outcomes"),
        (lambda: conversions.to_filter(_near(0.0)), "filter.near_radius_m"),
        (lambda: conversions.to_filter(_near(-1.0)), "filter.near_radius_m"),
        (lambda: conversions.to_filter(_near(math.nan)), "filter.near_radius_m"),
        (lambda: conversions.to_filter(_near(math.inf)), "filter.near_radius_m"),
        (lambda: conversions.to_filter(_near(1.0, x=math.nan)), "filter.near"),
    ],
)
def test_numbers_and_keys_that_mean_nothing_are_refused_by_field(convert, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        convert()
    assert caught.value.field == field
