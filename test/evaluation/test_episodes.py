"""Pairing and episodes, compared with a plain scan through time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mcap", reason="bags of other tools need mcap (requirements/dev.txt)")

from test.evaluation import writers
from test.evaluation.writers import Recorded, write_sqlite
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.episodes import EpisodeRule, in_force, number_episodes, runs_of
from vla_retrieval.evaluation.frames import ReadOptions, Recording
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.evaluation.topics import TopicOptions

STAMPS = st.integers(0, 30)


@settings(deadline=None)
@given(st.lists(STAMPS), st.lists(STAMPS).map(sorted))
def test_the_instruction_in_force_is_the_last_one_given(
    frames: list[int], given_at: list[int]
) -> None:
    expected = []
    for frame in frames:
        held = -1
        for number, stamp in enumerate(given_at):
            if stamp <= frame:
                held = number
        expected.append(held)

    assert in_force(frames, given_at).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", ""])))
def test_repeated_words_are_one_run(texts: list[str]) -> None:
    expected: list[int] = []
    for number, text in enumerate(texts):
        if number == 0:
            expected.append(0)
        else:
            expected.append(expected[-1] + (texts[number - 1] != text))

    assert runs_of(texts).tolist() == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(STAMPS, st.integers(0, 1))), st.lists(STAMPS), st.booleans(),
    st.sampled_from([0.0, 2e-9, 7e-9]),
)  # fmt: skip
def test_episodes_end_where_a_plain_scan_ends_them(
    steps: list[tuple[int, int]], markers: list[int], at_instructions: bool, gap_sec: float
) -> None:
    stamps = sorted(stamp for stamp, _ in steps)
    runs = [sum(step for _, step in steps[: n + 1]) for n in range(len(steps))]
    expected, episode = [], 0
    for n, stamp in enumerate(stamps):
        if n:
            before = stamps[n - 1]
            other = at_instructions and runs[n] != runs[n - 1]
            late = gap_sec > 0 and stamp - before > round(gap_sec * 1e9)
            marked = any(before < marker <= stamp for marker in markers)
            episode += other or late or marked
        expected.append(episode)

    found = number_episodes(stamps, runs, markers, EpisodeRule(at_instructions, gap_sec))

    assert found.tolist() == expected


def read(tmp_path: Path, recorded: Recorded, **options: object) -> Recording:
    path = tmp_path / "bag.db3"
    path.unlink(missing_ok=True)
    write_sqlite(path, recorded)
    return read_recordings([path], ReadOptions(**options))[0]


def numbers(recording: Recording) -> list[int]:
    return [int(frame.episode_id.rpartition("-")[2]) for frame in recording.frames]


def test_words_that_are_repeated_begin_no_episode(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1).say(2, "go").see(3).say(4, "stop").see(5)

    assert numbers(read(tmp_path, recorded)) == [1, 1, 2]


def test_a_gap_begins_an_episode_where_it_is_asked_for(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1).see(2).see(9).say(9.5, "stop").see(10)

    assert numbers(read(tmp_path, recorded, episodes=EpisodeRule(gap_sec=5))) == [1, 1, 2, 3]
    rule = EpisodeRule(at_instructions=False, gap_sec=5)
    assert numbers(read(tmp_path, recorded, episodes=rule)) == [1, 1, 2, 2]


def test_a_marker_begins_an_episode_whatever_its_type(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1).see(2).see(3)
    recorded.add("/reset", "nobody_msgs/msg/Knows", 1.5, b"\x00\x01\x00\x00")
    options = {"topics": TopicOptions(marker="/reset")}

    recording = read(tmp_path, recorded, **options)

    assert numbers(recording) == [1, 2, 2]
    assert not any("left out" in note for note in recording.notes)


def test_an_image_is_paired_by_its_stamp_and_not_by_its_receipt(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "first").say(2, "second")
    recorded.see(2.5, stamp_ns=writers.ns(1.9)).see(3)

    frames = read(tmp_path, recorded).frames

    assert [f.instruction for f in frames] == ["first", "second"]


def test_a_gap_below_zero_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="gap_sec"):
        EpisodeRule(gap_sec=-1)
