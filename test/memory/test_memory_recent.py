"""Entries that come from RAM are those that the database has."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_retrieval.errors import EntryNotFoundError, StorageError
from vla_retrieval.memory import Memory, MemoryOptions
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.recent import RecentEntries
from vla_retrieval.types import Action, Entry, NewEntry

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors


def entry(number: int, text: str = "do it", **fields: object) -> Entry:
    return Entry(text, 0, entry_id=number, **fields)  # type: ignore[arg-type]


def fill(memory: Memory, count: int = 4) -> list[int]:
    entries = [NewEntry(f"task {number}", number) for number in range(count)]
    return memory.add(entries, unit_vectors(count, DIM, 1), unit_vectors(count, DIM, 2))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What is read from the database, call by call."""
    seen: list[list[int]] = []
    original = store.read

    def read(connection, entry_ids, **options):
        seen.append(list(entry_ids))
        return original(connection, entry_ids, **options)

    monkeypatch.setattr("vla_retrieval.memory.readable.store.read", read)
    return seen


def test_what_was_read_a_moment_ago_is_not_read_again(memory: Memory, reads) -> None:
    ids = fill(memory)
    first = memory.get_many(ids[:3])
    again = memory.get_many([ids[2], ids[0]])
    assert [e.instruction for e in again] == ["task 2", "task 0"]
    assert again[1] is first[0]
    assert reads == [ids[:3]]
    memory.get_many(ids)  # one of them is new
    assert reads == [ids[:3], ids]


def test_an_entry_alone_and_thumbnails_are_read_each_time(memory: Memory, reads) -> None:
    ids = fill(memory)
    for _ in range(2):
        memory.get(ids[0])
        memory.get_many(ids, thumbnails=True)
    assert len(reads) == 4


def test_pinned_and_merged_and_removed_entries_are_what_they_are_now(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(options=MemoryOptions(merge_scene=0.999, merge_instruction=0.999))
    ids = fill(memory)
    assert not any(e.pinned or e.merged for e in memory.get_many(ids))
    memory.pin(ids[:1])
    assert [e.pinned for e in memory.get_many(ids)] == [True, False, False, False]
    halves = unit_vectors(4, DIM, 1)[1:2], unit_vectors(4, DIM, 2)[1:2]
    assert memory.add([NewEntry("task 1", 1)], *halves) == [ids[1]]
    assert [e.merged for e in memory.get_many(ids)] == [0, 1, 0, 0]
    memory.remove(ids[2:3])
    with pytest.raises(EntryNotFoundError):
        memory.get_many(ids)
    assert [e.entry_id for e in memory.get_many([ids[0], ids[3]])] == [ids[0], ids[3]]


def test_evicted_entries_are_gone(open_memory: OpenMemory) -> None:
    memory = open_memory(options=MemoryOptions(max_entries=4))
    ids = fill(memory)
    memory.get_many(ids)
    new = memory.add([NewEntry("more", 9)], unit_vectors(1, DIM, 5), unit_vectors(1, DIM, 6))
    with pytest.raises(EntryNotFoundError):
        memory.get_many(ids)
    assert len(memory.get_many(ids[1:] + new)) == 4


def test_a_closed_memory_gives_nothing_from_ram(memory: Memory) -> None:
    ids = fill(memory)
    memory.get_many(ids)
    memory.close()
    with pytest.raises(StorageError, match="closed"):
        memory.get_many(ids)


def test_what_was_read_before_a_change_is_not_kept_after_it(memory: Memory, monkeypatch) -> None:
    """A reader that is overtaken by a writer between its look at the database and its end."""
    ids = fill(memory)
    original, has_read, has_pinned = store.read, threading.Event(), threading.Event()

    def slowly(connection, entry_ids, **options):
        found = original(connection, entry_ids, **options)
        has_read.set()
        assert has_pinned.wait(60)
        return found

    monkeypatch.setattr("vla_retrieval.memory.readable.store.read", slowly)
    reader = threading.Thread(target=memory.get_many, args=(ids,))
    reader.start()
    assert has_read.wait(60)
    memory.pin(ids)
    has_pinned.set()
    reader.join()
    assert all(e.pinned for e in memory.get_many(ids))


def test_shared_entries_cannot_be_written_to(memory: Memory) -> None:
    action = Action("joints", (3,), np.ones(3, np.float32))
    ids = memory.add(
        [NewEntry("go", 0, action=action)], unit_vectors(1, DIM, 1), unit_vectors(1, DIM, 2)
    )
    (found,) = memory.get_many(ids)
    assert found.action is not None
    with pytest.raises(ValueError, match="read-only"):
        found.action.values[0] = 7.0
    with pytest.raises(TypeError):
        found.metadata["x"] = "y"  # type: ignore[index]


def test_the_ones_used_last_stay_where_there_is_no_room_for_all() -> None:
    recent = RecentEntries(most_bytes=6 * 1600)
    for number in range(6):
        recent.keep([entry(number)], 0)
    assert recent.find([0, 1]) is not None
    recent.keep([entry(6), entry(7)], 0)
    assert recent.find([0]) is not None
    assert recent.find([1]) is not None
    assert recent.find([2]) is None
    assert recent.find([3]) is None
    large = Action("joints", (4000,), np.zeros(4000, np.float32))
    recent.keep([entry(8, action=large)], 0)
    assert recent.find([8]) is None


def test_an_entry_that_is_kept_again_and_again_takes_its_room_once() -> None:
    recent = RecentEntries(most_bytes=3 * 1600)
    for _ in range(9):
        recent.keep([entry(1), entry(2)], 0)
    assert recent.find([1, 2]) is not None


def test_a_change_that_failed_forgets_everything() -> None:
    recent = RecentEntries()
    recent.keep([entry(1)], 0)
    with pytest.raises(StorageError), recent.changing():
        raise StorageError("the disk is full")
    assert recent.find([1]) is None
    recent.keep([entry(1)], 0)
    assert recent.find([1]) is None


def test_an_entry_that_is_being_changed_is_not_found() -> None:
    recent = RecentEntries()
    recent.keep([entry(1), entry(2)], 0)
    with recent.changing() as changed:
        changed.add(1)
        assert recent.find([1, 2]) is None
        assert recent.find([2]) is not None
    assert recent.find([1]) is None
    assert recent.find([2]) is not None


@settings(max_examples=100)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["read", "keep", "change", "find"]), st.integers(0, 4)),
        max_size=60,
    )
)
def test_what_is_found_is_always_the_newest(steps: list[tuple[str, int]]) -> None:
    """Beside a plain model: the text of an entry is how often it was changed.

    A reader looks at the database at one step and keeps what it has seen at another.
    """
    recent = RecentEntries()
    now = dict.fromkeys(range(5), 0)
    seen: dict[int, tuple[Entry, int]] = {}
    kept: set[int] = set()
    for step, number in steps:
        if step == "read":
            seen[number] = entry(number, str(now[number] + 1)), recent.changes
        elif step == "keep" and number in seen:
            found, changes = seen[number]
            recent.keep([found], changes)
            if changes == recent.changes:
                kept.add(number)
        elif step == "change":
            with recent.changing() as changed:
                now[number] += 1
                changed.add(number)
            kept.discard(number)
        elif step == "find":
            hit = recent.find([number])
            assert (hit is not None) == (number in kept)
            assert hit is None or hit[0].instruction == str(now[number] + 1)
