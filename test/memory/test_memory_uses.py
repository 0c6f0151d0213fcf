"""Counting matches, for evicting the least used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import Eviction, MemoryOptions
from vla_retrieval.memory import entries as store
from vla_retrieval.types import NewEntry

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

VECTORS = unit_vectors(40, DIM, 3)


def filled(open_memory: OpenMemory, count: int, **options: object) -> object:
    memory = open_memory(options=MemoryOptions(eviction=Eviction.LEAST_USED, **options))
    entries = [NewEntry(f"do {n}", n) for n in range(count)]
    memory.add(entries, VECTORS[:count], VECTORS[:count])
    return memory


def test_uses_may_be_counted_by_many_threads_while_others_are_evicted(
    open_memory: OpenMemory,
) -> None:
    memory = filled(open_memory, 8, max_entries=8)
    stop = threading.Event()
    failures: list[BaseException] = []

    def use() -> None:
        try:
            while not stop.is_set():
                memory.note_use(memory.entry_ids())
        except BaseException as error:
            failures.append(error)

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    for n in range(8, 40):
        memory.add([NewEntry(f"do {n}", n)], VECTORS[n : n + 1], VECTORS[n : n + 1])
    stop.set()
    for user in users:
        user.join()
    assert not failures
    assert len(memory.entry_ids()) == 8


def test_a_use_of_an_entry_that_is_gone_counts_for_nobody(
    open_memory: OpenMemory, directory: Path
) -> None:
    memory = filled(open_memory, 3)
    memory.note_use([2])
    memory.remove([2])
    memory.note_use([1, 2, 99])
    assert memory._standing.unsaved_uses() == {1: 1}


def test_uses_that_the_disk_refused_are_kept_for_the_next_time(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = filled(open_memory, 3)
    memory.note_use([1, 3])
    memory.note_use([1])

    def refuse(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "add_uses", refuse)
        with pytest.raises(StorageError):
            memory._maintenance._save_uses()
    memory.close()
    with open_memory()._database.reading() as connection:
        assert sorted(store.read_uses(connection)) == [(1, 2), (3, 1)]


def test_a_full_memory_does_not_write_uses_down_at_every_pair(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_retrieval.memory.maintenance._WAITING", 4)
    memory = filled(open_memory, 8, max_entries=8)
    assert memory.wait_until_idle()
    saved: list[object] = []
    monkeypatch.setattr(store, "add_uses", lambda _, uses: saved.append(uses))
    for n in range(8, 40):
        (entry_id,) = memory.add([NewEntry(f"do {n}", n)], VECTORS[n : n + 1], VECTORS[n : n + 1])
        memory.note_use([entry_id])
        assert memory._maintenance.keeper.wait_until_idle()
    assert not saved
