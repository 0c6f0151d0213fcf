"""Lists of frames that are made when they are looked at: as lists of the same frames."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_retrieval.evaluation.frame_lists import Chosen, joined
from vla_retrieval.evaluation.frames import Frame


def nothing() -> None:
    raise AssertionError("nobody asked for a picture")


FRAMES = [
    Frame(f"q{n}", "bag", "/i", n, n, "camera", "go", "bag-1", n, nothing, nothing)  # type: ignore[arg-type]
    for n in range(9)
]
POSITIONS = st.lists(st.integers(0, len(FRAMES) - 1), max_size=7)


def check(made: Sequence[Frame], expected: list[Frame], start: int | None, end: int | None) -> None:
    assert len(made) == len(expected)
    assert list(made) == expected
    assert list(made[start:end]) == expected[start:end]
    assert list(made[start:end:2]) == expected[start:end:2]
    for at in range(-len(expected), len(expected)):
        assert made[at] == expected[at]
    for at in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            made[at]


BOUNDS = st.none() | st.integers(-8, 8)


@settings(deadline=None)
@given(POSITIONS, st.data(), BOUNDS, BOUNDS)
def test_chosen_frames_are_those_at_the_positions(
    positions: list[int], data: st.DataObject, start: int | None, end: int | None
) -> None:
    chosen, expected = Chosen(FRAMES, positions), [FRAMES[at] for at in positions]
    check(chosen, expected, start, end)
    if positions:
        again = data.draw(st.lists(st.integers(0, len(positions) - 1), max_size=4))
        check(Chosen(chosen, again), [expected[at] for at in again], start, end)


@settings(deadline=None)
@given(st.lists(POSITIONS, max_size=4), BOUNDS, BOUNDS)
def test_joined_frames_follow_each_other(
    parts: list[list[int]], start: int | None, end: int | None
) -> None:
    expected = [FRAMES[at] for part in parts for at in part]
    check(joined([Chosen(FRAMES, part) for part in parts]), expected, start, end)
