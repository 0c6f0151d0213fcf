"""Readers beside a writer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vla_retrieval.errors import EntryNotFoundError, StorageError
from vla_retrieval.memory import Memory, SearchResult
from vla_retrieval.memory.sharing import SharedLock
from vla_retrieval.types import Filter, Modality, NewEntry, Probe

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


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("cut", ["index.Index.add", "columns.Columns.bury"])
def test_an_index_that_cannot_follow_is_never_searched(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, cut: str, error: type[BaseException]
) -> None:
    memory = open_memory()
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])

    def cut_off(*_: object) -> None:
        raise error

    def change() -> None:
        if cut.endswith("add"):
            memory.add([NewEntry("second", 0)], SCENES[1:2], SCENES[1:2])
        else:
            memory.remove([1])

    with monkeypatch.context() as patch:
        patch.setattr(f"vla_retrieval.memory.{cut}", cut_off)
        with pytest.raises(StorageError, match="the change is stored, but its index could not"):
            change()
    with pytest.raises(StorageError, match="could not follow"):
        memory.search([Probe(Modality.SCENE, SCENES[0])], 1)
    found = open_memory().search([Probe(Modality.SCENE, SCENES[0])], 9)
    assert [c.entry_id for c in found.candidates] == ([1, 2] if cut.endswith("add") else [])


def test_a_write_that_is_cut_off_before_its_commit_changes_nothing(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vla_retrieval.memory.entries.write_embeddings", cut_off)
        with pytest.raises(KeyboardInterrupt):
            memory.add([NewEntry("second", 0)], SCENES[1:2], SCENES[1:2])
    assert memory.add([NewEntry("third", 0)], SCENES[2:3], SCENES[2:3]) == [2]
    assert memory.get(2).instruction == "third"


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
