"""Which new entries are near-duplicates, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import Memory, MemoryOptions
from vla_retrieval.types import (
    Action,
    CameraPose,
    Embeddings,
    Modality,
    NewEntry,
    Outcome,
    Probe,
    Similarity,
)

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

SECOND = 10**9
SAID = NewEntry(
    "pick up the cup", 100 * SECOND, "left", "episode 1", Outcome.SUCCESS,
    Action("xyz", (3,), np.arange(3, dtype=np.float32)), None, ("red", "cup"),
    {"operator": "a", "place": "b"},
)  # fmt: skip
HERE = CameraPose("map", 0, (1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0))


def turned(cosine: float, axis: int = 0) -> Embeddings:
    """Return a unit vector that has a cosine with one axis; the others differ in theirs."""
    vector = np.zeros(DIM)
    vector[axis], vector[axis + 1] = cosine, np.sqrt(1 - cosine**2)
    return vector.astype(np.float32)


def merging(**options: float) -> MemoryOptions:
    return MemoryOptions(**{"merge_scene": 0.9, "merge_instruction": 0.95, **options})  # type: ignore[arg-type]


def add(
    memory: Memory, entry: NewEntry, scene: float = 1.0, instruction: float = 1.0
) -> tuple[int, bool]:
    report = memory.add_with_report(
        [entry], turned(scene)[np.newaxis], turned(instruction, 4)[np.newaxis]
    )
    return report.entry_ids[0], report.merged[0]


def add_after(
    memory: Memory, first: NewEntry, entry: NewEntry, *halves: float, in_one_batch: bool
) -> tuple[int, bool]:
    """Add an entry whose halves have these cosines with those of one before it."""
    if not in_one_batch:
        add(memory, first)
        return add(memory, entry, *halves)
    scene, instruction = halves or (1.0, 1.0)
    scenes = np.array([turned(1.0), turned(scene)])
    instructions = np.array([turned(1.0, 4), turned(instruction, 4)])
    report = memory.add_with_report([first, entry], scenes, instructions)
    return report.entry_ids[1], report.merged[1]


@pytest.mark.parametrize("in_one_batch", [False, True])
@pytest.mark.parametrize(
    ("scene", "instruction", "merged"),
    [(1.0, 1.0, True), (0.91, 0.96, True), (0.89, 1.0, False), (1.0, 0.94, False),
     (0.89, 0.94, False)],
)  # fmt: skip
@pytest.mark.parametrize("similarity", Similarity)
def test_both_halves_have_to_be_alike(
    open_memory: OpenMemory,
    scene: float,
    instruction: float,
    merged: bool,
    similarity: Similarity,
    in_one_batch: bool,
) -> None:
    memory = open_memory(options=merging(), similarity=similarity)
    found = add_after(memory, SAID, SAID, scene, instruction, in_one_batch=in_one_batch)
    assert found == ((1, True) if merged else (2, False))
    assert memory.stats().entries == 1 + (not merged)
    assert memory.get(1).merged == memory.stats().merged == int(merged)


@pytest.mark.parametrize("in_one_batch", [False, True])
@pytest.mark.parametrize(
    ("apart", "within", "merged"),
    [(5, 5, True), (-5, 5, True), (5.000000001, 5, False), (-6, 5, False), (10**6, 0, True),
     (0, 1e-9, True)],
)  # fmt: skip
def test_the_stamps_have_to_be_close(
    open_memory: OpenMemory, apart: float, within: float, merged: bool, in_one_batch: bool
) -> None:
    memory = open_memory(options=merging(merge_within_sec=within))
    first = replace(SAID, stamp_ns=2 * 10**6 * SECOND)
    later = replace(first, stamp_ns=first.stamp_ns + round(apart * SECOND))
    assert add_after(memory, first, later, in_one_batch=in_one_batch)[1] is merged


@pytest.mark.parametrize("in_one_batch", [False, True])
@pytest.mark.parametrize(
    "news",
    [
        {"outcome": Outcome.FAILURE},
        {"action": None},
        {"action": Action("xyz", (3,), np.array([0, 1, 2.5], dtype=np.float32))},
        {"action": Action("abc", (3,), np.arange(3, dtype=np.float32))},
        {"action": Action("xyz", (3, 1), np.arange(3, dtype=np.float32))},
        {"tags": ("red", "new")},
        {"metadata": {"operator": "other"}},
        {"metadata": {"new": "key"}},
        {"episode_id": "episode 2"},
        {"frame_id": "right"},
        {"pinned": True},
    ],
    ids=lambda news: str(news)[:40],
)
def test_what_says_something_new_is_stored(
    open_memory: OpenMemory, news: dict[str, object], in_one_batch: bool
) -> None:
    memory = open_memory(options=merging())
    other = replace(SAID, **news)  # type: ignore[arg-type]
    if in_one_batch:
        halves = np.array([turned(1.0)] * 2), np.array([turned(1.0, 4)] * 2)
        report = memory.add_with_report([SAID, other], *halves)
        assert (report.entry_ids, report.merged) == ((1, 2), (False, False))
        return
    add(memory, SAID)
    assert add(memory, other) == (2, False)
    assert memory.stats().merged == 0


@pytest.mark.parametrize(
    "less",
    [
        {"tags": ("cup",)}, {"tags": ("cup", "red")}, {"metadata": {"place": "b"}},
        {"metadata": {}}, {"stamp_ns": 5}, {"camera_pose": HERE}, {"thumbnail": b"jpeg"},
    ],
    ids=lambda less: str(less)[:30],
)  # fmt: skip
def test_what_says_only_what_is_known_is_merged_and_changes_nothing_stored(
    open_memory: OpenMemory, less: dict[str, object]
) -> None:
    memory = open_memory(options=merging())
    add(memory, SAID)
    assert add(memory, replace(SAID, **less)) == (1, True)  # type: ignore[arg-type]
    stored = memory.get(1, thumbnail=True)
    assert (stored.tags, stored.metadata) == (SAID.tags, SAID.metadata)
    assert (stored.stamp_ns, stored.camera_pose, stored.thumbnail) == (SAID.stamp_ns, None, b"")


def test_repeats_within_a_batch_are_merged_into_the_first_of_them(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(options=merging())
    add(memory, SAID)
    other = replace(SAID, outcome=Outcome.FAILURE)
    batch = [other, SAID, other, replace(SAID, frame_id="right"), other]
    report = memory.add_with_report(
        batch, np.array([turned(1.0)] * 5), np.array([turned(1.0, 4)] * 5)
    )
    assert report.entry_ids == (2, 1, 2, 3, 2)
    assert report.merged == (False, True, True, False, True)
    assert [entry.merged for entry in memory.get_many([1, 2, 3])] == [1, 2, 0]
    assert memory.stats().merged == 3


def test_a_batch_of_nothing_but_repeats_stores_nothing(open_memory: OpenMemory) -> None:
    memory = open_memory(options=merging())
    add(memory, SAID)
    for _ in range(3):
        assert add(memory, SAID) == (1, True)
    memory = open_memory(options=merging())
    assert (memory.entry_ids(), memory.get(1).merged, memory.stats().merged) == ([1], 3, 3)
    found = memory.search([Probe(Modality.SCENE, turned(1.0))], 9)
    assert [c.entry_id for c in found.candidates] == [1]


def test_a_forgotten_entry_is_nobodys_duplicate(open_memory: OpenMemory) -> None:
    memory = open_memory(options=merging())
    add(memory, SAID)
    memory.remove([1])
    assert add(memory, SAID) == (2, False)


def test_without_the_option_equal_entries_are_all_stored(open_memory: OpenMemory) -> None:
    memory = open_memory()
    assert [add(memory, SAID) for _ in range(3)] == [(1, False), (2, False), (3, False)]


def test_the_nearest_of_many_is_found(open_memory: OpenMemory) -> None:
    memory = open_memory(options=merging(merge_scene=0.9999, merge_instruction=0.9999))
    scenes, instructions = unit_vectors(300, DIM, 1), unit_vectors(300, DIM, 2)
    memory.add([SAID] * 300, scenes, instructions)
    rows = [7, 299, 0, 150]
    report = memory.add_with_report([SAID] * 4, scenes[rows], instructions[rows])
    assert report.entry_ids == tuple(row + 1 for row in rows)


@pytest.mark.parametrize(
    "other",
    [
        lambda n: {"episode_id": f"episode {n}"}, lambda n: {"frame_id": f"camera {n}"},
        lambda n: {"tags": (f"tag {n}",)}, lambda n: {"metadata": {"place": f"room {n}"}},
    ],
)  # fmt: skip
def test_many_look_alikes_that_say_something_else_do_not_hide_the_one_that_is_repeated(
    open_memory: OpenMemory, other: Callable[[int], dict[str, Any]]
) -> None:
    """A robot that comes back to one place in every episode."""
    memory = open_memory(options=merging())
    entries = [replace(SAID, **other(n)) for n in range(20)]
    assert [add(memory, entry) for entry in entries] == [(n + 1, False) for n in range(20)]
    assert add(memory, entries[-1]) == (20, True)


def test_a_repeat_is_found_behind_a_nearer_entry_that_says_something_else(
    open_memory: OpenMemory,
) -> None:
    """As where two cameras see the same."""
    memory = open_memory(options=merging())
    add(memory, replace(SAID, frame_id="right"))
    add(memory, SAID, scene=0.95)
    assert add(memory, SAID) == (2, True)


def test_an_entry_that_goes_with_what_was_merged_into_it_is_reported_as_gone(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(options=merging(max_entries=2))
    add(memory, replace(SAID, stamp_ns=0))
    add(memory, replace(SAID, frame_id="right"))
    report = memory.add_with_report(
        [SAID, replace(SAID, frame_id="new")],
        np.array([turned(1.0)] * 2), np.array([turned(1.0, 4)] * 2),
    )  # fmt: skip
    assert (report.entry_ids, report.merged, report.evicted) == ((1, 3), (True, False), (1,))
    assert memory.entry_ids() == [2, 3]


@pytest.mark.parametrize("within_sec", [-0.5, 2e9, float("inf"), float("nan")])
def test_a_time_between_duplicates_that_no_stamp_can_have_is_refused(within_sec: float) -> None:
    """Not when the first pair is added: -0.5 merged nothing, and infinity refused every pair."""
    with pytest.raises(InvalidInputError, match="merge_within_sec: expected seconds from 0"):
        MemoryOptions(merge_within_sec=within_sec)
