"""No episode on both sides, no leak in time, every shared instruction on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mcap", reason="bags of other tools need mcap (requirements/dev.txt)")

from test.evaluation.writers import Recorded, write_rosbags
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.evaluation.relevance import Labels, normalise
from vla_retrieval.evaluation.splits import Split, SplitOptions, split_frames

SEC = 1_000_000_000


def frame(episode: int, at: float, instruction: str, bag: str = "bag", topic: str = "/i") -> Frame:
    stamp = round(at * SEC)
    return Frame(
        f"{bag}:{topic}@{stamp}", bag, topic, stamp, stamp, "camera", instruction,
        f"{bag}-{episode:04d}", 0, lambda: np.zeros((1, 1, 3), np.uint8), lambda: None,
    )  # fmt: skip


def frames_of(*instructions: str, count: int = 3, bag: str = "bag") -> list[Frame]:
    """Episodes one after the other, 10 s long, a frame each second."""
    return [
        frame(number, 10 * number + at, text, bag)
        for number, text in enumerate(instructions)
        for at in range(count)
    ]


def episodes(frames: Sequence[Frame]) -> set[str]:
    return {f.episode_id for f in frames}


def words(frames: Sequence[Frame]) -> set[str]:
    return {normalise(f.instruction) for f in frames}


RECORDINGS = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.integers(1, 4), st.sampled_from(["x", "y"])),
    min_size=1, max_size=25,
).map(
    lambda rows: [
        frame(number, 4 * number + at, text, bag)
        for bag in ("x", "y")
        for number, (text, count, of) in enumerate(rows)
        if of == bag
        for at in range(count)
    ]
)  # fmt: skip
OPTIONS = st.builds(
    SplitOptions,
    query_fraction=st.floats(0.05, 0.95),
    absent_fraction=st.floats(0, 1),
    every_sec=st.sampled_from([0.0, 1.5]),
    exclude_within_sec=st.sampled_from([0.0, 2.0, 4.0]),
    seed=st.integers(0, 5),
)


@settings(deadline=None)
@given(RECORDINGS, OPTIONS)
def test_nothing_leaks_from_the_memory_to_those_who_ask(
    frames: list[Frame], options: SplitOptions
) -> None:
    split = split_frames(frames, options)
    asking = [*split.queries, *split.absent]

    assert not episodes(split.gallery) & episodes(asking)
    assert words(split.queries) <= words(split.gallery)
    assert not words(split.absent) & words(split.gallery)
    for f in asking:
        near = [abs(f.stamp_ns - g.stamp_ns) for g in split.gallery if g.bag == f.bag]
        assert min(near, default=10**18) >= options.exclude_within_sec * SEC
    left = split.counts["frames thinned out"] + split.counts["frames too near"]
    assert len(split.gallery) + len(asking) + left == len(frames)
    ids = [f.query_id for f in [*split.gallery, *asking]]
    assert len(set(ids)) == len(ids)


@settings(deadline=None)
@given(RECORDINGS, OPTIONS)
def test_an_instruction_with_two_episodes_is_on_both_sides(
    frames: list[Frame], options: SplitOptions
) -> None:
    split = split_frames(frames, replace(options, exclude_within_sec=0.0))
    of: dict[str, set[str]] = {}
    for f in frames:
        of.setdefault(f.instruction, set()).add(f.episode_id)

    for text, ids in of.items():
        asking = ids & episodes(split.queries)
        if len(ids) > 1:
            wanted = min(max(int(options.query_fraction * len(ids) + 0.5), 1), len(ids) - 1)
            assert len(asking) == wanted
            assert text in words(split.gallery)
        else:
            assert not asking


@settings(deadline=None)
@given(RECORDINGS, OPTIONS)
def test_names_of_bags_do_not_change_the_split(frames: list[Frame], options: SplitOptions) -> None:
    def renamed(f: Frame) -> Frame:
        bag = {"x": "run_mcap", "y": "other"}[f.bag]
        return replace(f, bag=bag, query_id=bag + f.query_id[1:], episode_id=bag + f.episode_id[1:])

    split, other = split_frames(frames, options), split_frames(map_all(renamed, frames), options)

    for side in ("gallery", "queries", "absent"):
        assert list(getattr(other, side)) == list(map(renamed, getattr(split, side)))
    assert other.notes == split.notes


def map_all(change, frames: list[Frame]) -> list[Frame]:  # type: ignore[no-untyped-def]
    return [change(f) for f in frames]


def test_both_storages_of_one_recording_are_split_alike(tmp_path: Path) -> None:
    recorded = Recorded()
    for number, text in enumerate(["a", "b", "a", "c", "b", "a"]):
        recorded.say(10 * number, text)
        for at in range(1, 4):
            recorded.see(10 * number + at)
    options = SplitOptions(absent_fraction=1.0, exclude_within_sec=8.5)
    found = []
    for storage in ("sqlite3", "mcap"):
        (recording,) = read_recordings(
            [write_rosbags(tmp_path / storage / "bag", recorded, storage)]
        )
        found.append(split_frames(recording.frames, options))

    for side in ("gallery", "queries", "absent"):
        assert list(getattr(found[0], side)) == list(getattr(found[1], side))
    assert (found[0].counts, found[0].notes) == (found[1].counts, found[1].notes)
    assert found[0].queries


def test_another_seed_draws_other_episodes() -> None:
    frames = frames_of(*"aaaaaaaaaa")

    draws = {
        frozenset(episodes(split_frames(frames, SplitOptions(seed=n)).queries)) for n in range(9)
    }

    assert len(draws) > 3


def test_instructions_of_one_episode_are_absent_queries_where_it_is_asked_for() -> None:
    frames = frames_of("a", "a", "b", "c", "d", "e")

    some = split_frames(frames, SplitOptions(absent_fraction=0.5))
    without = split_frames(frames)

    assert len(words(some.absent)) == 2
    assert not without.absent
    assert words(without.gallery) == set("abcde")
    assert any("2 are kept out of the memory" in note for note in some.notes)


def test_bags_can_be_the_sides() -> None:
    frames = frames_of("a", "b", bag="x") + frames_of("a", "c", bag="y") + frames_of("a", bag="z")

    split = split_frames(frames, SplitOptions(gallery_bags=("x",), query_bags=("y",)))

    assert {f.bag for f in split.gallery} == {"x"}
    assert (words(split.queries), words(split.absent)) == ({"a"}, {"c"})
    assert any("not used: z" in note for note in split.notes)
    rest = split_frames(frames, SplitOptions(gallery_bags=("x",)))
    assert {f.bag for f in rest.queries} == {"y", "z"}
    rest = split_frames(frames, SplitOptions(query_bags=("y",)))
    assert {f.bag for f in rest.gallery} == {"x", "z"}


def test_a_query_that_a_file_answers_is_not_absent_whatever_its_words() -> None:
    frames = frames_of("a", bag="x") + frames_of("b", bag="y")
    named, *others = (f.query_id for f in frames if f.bag == "y")

    split = split_frames(frames, SplitOptions(gallery_bags=("x",)), answerable={named})

    assert [f.query_id for f in split.queries] == [named]
    assert [f.query_id for f in split.absent] == others


def test_queries_that_no_file_names_are_judged_by_their_words_as_before() -> None:
    frames = frames_of("a", bag="x") + frames_of("a", "b", "c", bag="y")
    named = next(f.query_id for f in frames if f.instruction == "b")

    split = split_frames(frames, SplitOptions(gallery_bags=("x",)), answerable={named})

    assert [f.instruction for f in split.queries] == ["a", "a", "a", "b"]
    assert [f.instruction for f in split.absent] == ["b", "b", "c", "c", "c"]


def test_a_frame_as_far_from_the_memory_as_it_has_to_be_asks() -> None:
    frames = frames_of("a", count=6)
    split = split_frames(frames, SplitOptions(exclude_within_sec=1.0), within_episodes=True)
    assert [f.stamp_ns // SEC for f in split.gallery] == [0, 1, 2]
    assert [f.stamp_ns // SEC for f in split.queries] == [3, 4, 5]


@pytest.mark.parametrize(
    "options",
    [
        {"query_fraction": 0.0}, {"query_fraction": 1.0}, {"query_fraction": float("nan")},
        {"absent_fraction": 1.1}, {"every_sec": -1.0}, {"exclude_within_sec": float("inf")},
        {"gallery_bags": ("x",), "query_bags": ("x",)},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SplitOptions(**options)

    assert caught.value.field in options


def test_a_bag_that_nobody_read_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="gallery_bags"):
        split_frames(frames_of("a"), SplitOptions(gallery_bags=("other",)))
    with pytest.raises(InvalidInputError, match="frames"):
        split_frames([])


def test_subsampling_keeps_the_first_frame_of_each_episode_and_camera() -> None:
    left, right = frames_of("a", "a", count=5), frames_of("a", "a", count=5)
    frames = left + [replace(f, topic="/j", query_id=f.query_id + "j") for f in right]

    split = split_frames(frames, SplitOptions(every_sec=2.0))

    for topic in ("/i", "/j"):
        stamps = sorted(
            f.stamp_ns // SEC for f in [*split.gallery, *split.queries] if f.topic == topic
        )
        assert stamps == [0, 2, 4, 10, 12, 14]
    assert split.counts["frames thinned out"] == 8


def test_a_task_label_joins_the_words_of_two_languages() -> None:
    frames = frames_of("pick up the cup", "拿起杯子")
    label = Labels({"pick up the cup": "cup", "拿起杯子": "cup"})

    assert not split_frames(frames).queries
    split = split_frames(frames, group=label)
    assert len(split.queries) == len(split.gallery) == 3


def test_one_episode_alone_says_that_nobody_can_ask() -> None:
    split: Split = split_frames(frames_of("a", count=1))

    assert (len(split.gallery), len(split.queries)) == (1, 0)
    assert any("No frame can ask" in note for note in split.notes)


def test_episodes_with_several_instructions_are_divided_as_far_as_possible() -> None:
    frames = [
        frame(number, 10 * number + at, text)
        for number, texts in enumerate(["ab", "bc", "ca"])
        for at, text in enumerate(texts)
    ]

    split = split_frames(frames)

    assert not episodes(split.gallery) & episodes([*split.queries, *split.absent])
    assert any("on one side only" in note for note in split.notes)


def test_within_episodes_the_last_frames_of_each_ask_the_first_ones() -> None:
    frames = frames_of("a", "b", "a", count=4)
    split = split_frames(frames, SplitOptions(query_fraction=0.25), within_episodes=True)
    assert [f.stamp_ns // SEC for f in split.gallery] == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert [f.stamp_ns // SEC for f in split.queries] == [3, 13, 23]
    assert not split.absent


def test_within_episodes_the_last_frames_ask_whatever_their_words() -> None:
    frames = [frame(0, at, text) for at, text in enumerate("aaab")]
    split = split_frames(frames, SplitOptions(query_fraction=0.25), within_episodes=True)
    assert [f.instruction for f in split.queries] == ["b"]
    assert not split.absent


def test_within_episodes_a_frame_alone_is_remembered_and_the_seam_can_be_left_out() -> None:
    frames = [*frames_of("a", count=6), frame(9, 90, "b")]
    options = SplitOptions(exclude_within_sec=1.5)
    split = split_frames(frames, options, within_episodes=True)
    assert [f.stamp_ns // SEC for f in split.gallery] == [0, 1, 2, 90]
    assert [f.stamp_ns // SEC for f in split.queries] == [4, 5]


def test_bags_cannot_be_named_where_episodes_are_divided() -> None:
    with pytest.raises(InvalidInputError, match="No two bags have an episode in common"):
        split_frames(frames_of("a"), SplitOptions(gallery_bags=("bag",)), within_episodes=True)


def test_absent_queries_that_nobody_can_ask_are_told() -> None:
    split = split_frames(frames_of("a", "a"), SplitOptions(absent_fraction=0.5))
    assert any("Nothing is asked as absent" in note for note in split.notes)
