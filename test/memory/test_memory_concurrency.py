"""Readers beside a writer."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import EntryNotFoundError, StorageError
from vla_retrieval.memory import Memory, MemoryOptions, SearchResult
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.sharing import SharedLock
from vla_retrieval.memory.snapshot import Frozen
from vla_retrieval.types import Filter, Modality, NewEntry, Probe, Similarity

from .conftest import DIM, OpenMemory
from .oracle import similarity_with_all, unit_vectors

BATCH, BATCHES, READERS = 3, 150, 3
SCENES = unit_vectors(BATCHES, DIM, 1)
INSTRUCTIONS = unit_vectors(BATCHES, DIM, 2)
FILTERS = (Filter(), Filter(tags=("even",)), Filter(stamp_from_ns=20), Filter(exclude_ids=(10**6,)))


def batch_of(entry_id: int) -> int:
    return (entry_id - 1) // BATCH


def write(memory: Memory) -> None:
    """Add batches of equal entries, and remove every second batch soon after, whole."""
    for number in range(BATCHES):
        entries = [
            NewEntry(f"batch {number}", number, tags=("even",) if number % 2 == 0 else ())
        ] * BATCH
        rows = [number] * BATCH
        ids = memory.add(entries, SCENES[rows], INSTRUCTIONS[rows])
        assert {batch_of(i) for i in ids} == {number}
        if number % 2 and number > 4:
            memory.remove([i + 1 for i in range((number - 4) * BATCH, (number - 3) * BATCH)])


def check(memory: Memory, result: SearchResult, probes: list[Probe], k: int) -> None:
    """Whatever moment the search saw, it saw whole batches and scored them rightly."""
    assert result.memory_size % BATCH == result.eligible_size % BATCH == 0
    assert result.eligible_size <= result.memory_size
    assert len(result.candidates) == min(k, result.eligible_size)
    batches = [batch_of(c.entry_id) for c in result.candidates]
    expected = sum(
        probe.weight
        * similarity_with_all(memory.stats().similarity, probe.vector, vectors[batches])
        for probe, vectors in zip(probes, (SCENES, INSTRUCTIONS), strict=True)
    )
    scores = [c.score for c in result.candidates]
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    ranked = sorted(result.candidates, key=lambda c: (-c.score, c.entry_id))
    assert list(result.candidates) == ranked
    if k > result.eligible_size:
        assert all(batches.count(number) == BATCH for number in batches)


def read(memory: Memory, seed: int, done: threading.Event) -> int:
    rng = np.random.default_rng(seed)
    rounds = 0
    while not done.is_set():
        rounds += 1
        probes = [
            Probe(Modality.SCENE, unit_vectors(1, DIM, int(rng.integers(99)))[0], 0.5),
            Probe(Modality.INSTRUCTION, unit_vectors(1, DIM, int(rng.integers(99)))[0], 0.5),
        ]
        k = int(rng.choice([1, 10, 10**6]))
        result = memory.search(probes, k, filter=FILTERS[int(rng.integers(len(FILTERS)))])
        check(memory, result, probes, k)
        ids = [candidate.entry_id for candidate in result.candidates]
        try:
            entries = memory.get_many(ids)
        except EntryNotFoundError:
            continue  # removed since the search
        assert [e.instruction for e in entries] == [f"batch {batch_of(i)}" for i in ids]
    return rounds


@pytest.mark.usefixtures("way_of_scoring")
@pytest.mark.parametrize("durable", [True, False])
def test_every_answer_beside_a_writer_is_consistent(open_memory: OpenMemory, durable: bool) -> None:
    memory = open_memory(durable=durable)
    done = threading.Event()
    with ThreadPoolExecutor(READERS + 1) as pool:
        readers = [pool.submit(read, memory, seed, done) for seed in range(READERS)]
        try:
            pool.submit(write, memory).result()
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)
    assert memory.stats().entries == BATCH * (BATCHES - len(range(5, BATCHES, 2)))


def test_writers_in_several_threads_take_turns(memory: Memory) -> None:
    def add(number: int) -> list[int]:
        rows = [number] * BATCH
        return memory.add([NewEntry(f"batch {number}", 0)] * BATCH, SCENES[rows], SCENES[rows])

    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(add, range(40)))
    assert sorted(i for ids in given for i in ids) == list(range(1, 40 * BATCH + 1))
    for number, ids in enumerate(given):
        found = memory.search([Probe(Modality.SCENE, SCENES[number])], BATCH)
        assert [c.entry_id for c in found.candidates] == ids


def test_readers_do_not_wait_for_the_disk(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is stuck in its transaction holds nobody up."""
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])
    inside, go_on = threading.Event(), threading.Event()
    import vla_retrieval.memory.entries as store

    insert: Callable[..., list[int]] = store.insert

    def stuck(*arguments: object) -> list[int]:
        ids = insert(*arguments)
        inside.set()
        assert go_on.wait(60)
        return ids

    monkeypatch.setattr(store, "insert", stuck)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(memory.add, [NewEntry("second", 0)], SCENES[1:2], SCENES[1:2])
        assert inside.wait(60)
        found = memory.search([Probe(Modality.SCENE, SCENES[1])], 5)
        assert [c.entry_id for c in found.candidates] == [1]
        assert memory.get(1).instruction == "first"
        assert memory.stats().entries == 1
        go_on.set()
        assert adding.result() == [2]
    assert memory.search([Probe(Modality.SCENE, SCENES[1])], 1).candidates[0].entry_id == 2


@pytest.mark.parametrize("count", [1, 3, 700])
def test_entries_that_wait_for_the_index_are_there_for_whoever_asks(
    open_memory: OpenMemory, count: int
) -> None:
    memory = open_memory()
    vectors = unit_vectors(count, DIM, 9)
    for start in range(0, count, 9):
        some = vectors[start : start + 9]
        memory.add([NewEntry("do", 0)] * len(some), some, some)
    assert memory.entry_ids() == list(range(1, count + 1))
    memory.add([NewEntry("last", 0)], SCENES[:1], SCENES[:1])
    found = memory.search([Probe(Modality.SCENE, SCENES[0])], 1)
    assert (found.candidates[0].entry_id, found.memory_size) == (count + 1, count + 1)
    memory.add([NewEntry("gone", 0)], SCENES[1:2], SCENES[1:2])
    memory.remove([count + 2])
    memory.add([NewEntry("counted", 0)], SCENES[1:2], SCENES[1:2])
    assert memory.stats().entries == count + 2
    memory.add([NewEntry("kept", 0)], SCENES[2:3], SCENES[2:3])
    memory.write_snapshot()
    found = open_memory().search([Probe(Modality.SCENE, SCENES[2])], 1)
    assert found.candidates[0].entry_id == count + 4


def test_no_more_than_some_thousand_entries_wait_for_the_index_though_nobody_asks(
    memory: Memory,
) -> None:
    vectors, waiting = unit_vectors(3000, DIM, 9), []
    maintenance = memory._maintenance
    assert maintenance is not None
    with maintenance._busy:  # the memory's own thread would ask
        for start in range(0, len(vectors), BATCH * 10):
            some = vectors[start : start + BATCH * 10]
            memory.add([NewEntry("do", 0)] * len(some), some, some)
            waiting.append(memory._live.waiting)
    assert max(waiting) <= 2048
    assert len(memory.entry_ids()) == len(vectors)


def test_what_the_caller_changes_after_an_add_changes_nothing(memory: Memory) -> None:
    scenes, metadata = SCENES[:1].copy(), {"place": "kitchen"}
    memory.add([NewEntry("do", 0, metadata=metadata)], scenes, scenes)
    scenes[:] = SCENES[1]
    metadata["place"] = "cellar"
    wanted = Filter(metadata={"place": "kitchen"})
    found = memory.search([Probe(Modality.SCENE, SCENES[0])], 1, filter=wanted)
    assert found.candidates[0].score == pytest.approx(1)


def test_an_add_does_not_wait_for_a_search(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])
    inside, go_on = stop_in(monkeypatch, Index, "search")
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(memory.search, [Probe(Modality.SCENE, SCENES[0])], 9)
        assert inside.wait(60)
        assert memory.add([NewEntry("second", 0)], SCENES[1:2], SCENES[1:2]) == [2]
        go_on.set()
        assert searching.result(60).memory_size == 1
    assert memory.search([Probe(Modality.SCENE, SCENES[0])], 9).memory_size == 2


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock = SharedLock()
    order: list[str] = []
    reading, asked = threading.Event(), threading.Event()

    def first_reader() -> None:
        with lock.shared():
            reading.set()
            assert asked.wait(60)
            order.append("first reader")

    def writer() -> None:
        with lock.alone():
            order.append("writer")

    def second_reader() -> None:
        with lock.shared():
            order.append("second reader")

    threads = [threading.Thread(target=work) for work in (first_reader, writer, second_reader)]
    threads[0].start()
    assert reading.wait(60)
    threads[1].start()
    while not lock._writers_waiting:
        pass
    threads[2].start()
    asked.set()
    for thread in threads:
        thread.join()
    assert order == ["first reader", "writer", "second reader"]


def test_a_writer_waits_for_the_last_of_several_readers_and_no_longer() -> None:
    lock = SharedLock()
    written = threading.Event()

    def write() -> None:
        with lock.alone():
            written.set()

    writer = threading.Thread(target=write)
    with lock.shared():
        with lock.shared():
            writer.start()
            while not lock._writers_waiting:
                pass
        assert not written.is_set()
    assert written.wait(60)
    writer.join()


@pytest.mark.parametrize("index", ["exact", "pq", "pq_sq8", "hash"])
def test_every_answer_beside_all_kinds_of_maintenance_is_that_of_one_commit(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    """Entries come and go while others compact, build anew and write snapshots."""
    monkeypatch.setattr("vla_retrieval.memory.building.FEWEST_TO_FIT", 60)
    memory = open_memory(options=MemoryOptions(index=index))
    done = threading.Event()
    commits = Commits()

    def change() -> None:
        rng = np.random.default_rng(0)
        for number in range(BATCHES):
            rows = [number] * BATCH
            commits.will(lambda ids, n=number: ids | set(range(n * BATCH + 1, (n + 1) * BATCH + 1)))
            memory.add([NewEntry(f"batch {number}", number)] * BATCH, SCENES[rows], SCENES[rows])
            if number % 3 == 2:
                gone = set(rng.choice(sorted(commits.newest), 4, replace=False).tolist())
                commits.will(lambda ids, gone=gone: ids - gone)
                memory.remove(sorted(gone))

    def keep(work: Callable[[], object]) -> int:
        rounds = 0
        while not done.is_set() or rounds == 0:
            work()
            rounds += 1
        return rounds

    def ask() -> None:
        query = unit_vectors(1, DIM, int(np.random.default_rng().integers(99)))[0]
        first = commits.count
        found = memory.search([Probe(Modality.SCENE, query)], 10**6)
        shown = {c.entry_id for c in found.candidates}
        assert shown in commits.since(first)
        scores = similarity_with_all(
            Similarity.COSINE, query, SCENES[[batch_of(c.entry_id) for c in found.candidates]]
        ) if shown else []  # fmt: skip
        np.testing.assert_allclose([c.score for c in found.candidates], scores, atol=1e-12)

    with ThreadPoolExecutor(5) as pool:
        beside = [
            pool.submit(keep, work) for work in (ask, ask, memory.compact, memory.write_snapshot)
        ]
        try:
            pool.submit(change).result()
        finally:
            done.set()
        assert all(other.result() > 0 for other in beside)
    assert set(memory.entry_ids()) == commits.newest
    assert set(open_memory().entry_ids()) == commits.newest


class Commits:
    """Which entries there were after each commit, noted before it is made."""

    def __init__(self) -> None:
        self._states: list[set[int]] = [set()]

    @property
    def newest(self) -> set[int]:
        return self._states[-1]

    @property
    def count(self) -> int:
        return len(self._states)

    def will(self, change: Callable[[set[int]], set[int]]) -> None:
        self._states.append(change(self.newest))

    def since(self, count: int) -> list[set[int]]:
        """Return the states that a search may see which began when there were so many."""
        return self._states[max(0, count - 2) :]


@pytest.mark.parametrize("where", ["fsync", "writing", "renaming"])
def test_readers_and_writers_do_not_wait_for_a_snapshot_that_is_being_written(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])
    owner, name = {
        "fsync": (os, "fsync"), "writing": (Frozen, "_write"), "renaming": (Path, "replace"),
    }[where]  # fmt: skip
    inside, go_on = stop_in(monkeypatch, owner, name)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(memory.write_snapshot)
        assert inside.wait(60)
        assert memory.search([Probe(Modality.SCENE, SCENES[0])], 1).candidates[0].entry_id == 1
        assert memory.add([NewEntry("second", 0)], SCENES[1:2], SCENES[1:2]) == [2]
        memory.pin([2])
        memory.remove([1])
        assert memory.search([Probe(Modality.SCENE, SCENES[1])], 9).memory_size == 1
        assert memory.stats().entries == 1
        go_on.set()
        writing.result(60)
    assert memory.stats().index.snapshot_behind == 2


def test_readers_do_not_wait_for_a_commit_that_waits_for_the_disk(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is stuck in COMMIT, where SQLite fsyncs, holds nobody up."""
    memory = open_memory(durable=True)
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        """A connection whose COMMIT takes its time."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> object:
            return getattr(self._connection, name)

        def execute(self, sql: str, *values: object) -> object:
            if sql == "COMMIT":
                inside.set()
                assert go_on.wait(60)
            return self._connection.execute(sql, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(memory._database, "_writer", Slow(memory._database._writer))
    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(memory.remove, [1])
        assert inside.wait(60)
        found = memory.search([Probe(Modality.SCENE, SCENES[0])], 9)
        assert [c.entry_id for c in found.candidates] == [1]
        assert memory.get(1).instruction == "first"
        np.testing.assert_array_equal(memory.embeddings(1)[0], SCENES[0])
        assert memory.stats().entries == 1
        go_on.set()
        removing.result(60)
    assert memory.search([Probe(Modality.SCENE, SCENES[0])], 9).candidates == ()


def stop_in(
    patch: pytest.MonkeyPatch, owner: object, name: str
) -> tuple[threading.Event, threading.Event]:
    """Stop a function when it is called; return the event that says so, and that lets it go on."""
    inside, go_on = threading.Event(), threading.Event()
    original = getattr(owner, name)

    def stuck(*arguments: object) -> object:
        inside.set()
        assert go_on.wait(60)
        return original(*arguments)

    patch.setattr(owner, name, stuck)
    return inside, go_on


def wait_for_someone_who_waits(lock: SharedLock, done: Callable[[], bool]) -> None:
    """Return once somebody waits for a lock, or it has come otherwise."""
    while not lock._changed._waiters and not done():  # type: ignore[attr-defined]
        threading.Event().wait(0.001)


def test_a_writer_does_not_look_at_an_index_that_a_reader_is_changing(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader puts in what waits, also while a writer looks for near-duplicates."""
    memory = open_memory(options=MemoryOptions(merge_scene=0.99))
    memory.add([NewEntry("first", 1)], SCENES[:1], INSTRUCTIONS[:1])
    assert memory.entry_ids() == [1]
    memory.add([NewEntry("second", 2)], SCENES[1:2], INSTRUCTIONS[1:2])
    inside, go_on = stop_in(monkeypatch, Index, "add")
    search, looked = Index.search, threading.Event()

    def look(*arguments: object) -> object:
        looked.set()
        return search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "search", look)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(memory.entry_ids)
        assert inside.wait(60)
        adding = pool.submit(memory.add, [NewEntry("again", 3)], SCENES[1:2], INSTRUCTIONS[1:2])
        wait_for_someone_who_waits(memory._live._state, looked.is_set)
        too_early = looked.is_set()
        go_on.set()
        assert not too_early
        assert reading.result(60) == [1, 2]
        assert adding.result(60) == [2]


def test_a_writer_that_waited_for_an_index_which_was_torn_changes_nothing(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    memory.add([NewEntry("first", 1)], SCENES[:1], INSTRUCTIONS[:1])
    inside, go_on = threading.Event(), threading.Event()

    def no_room(*_: object) -> None:
        inside.set()
        assert go_on.wait(60)
        raise MemoryError

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(Index, "add", no_room)
        reading = pool.submit(memory.entry_ids)
        assert inside.wait(60)
        removing = pool.submit(memory.remove, [1])
        wait_for_someone_who_waits(memory._live._state, removing.done)
        go_on.set()
        for outcome in (reading, removing):
            with pytest.raises(StorageError, match="could not follow"):
                outcome.result(60)
    assert open_memory().entry_ids() == [1]
