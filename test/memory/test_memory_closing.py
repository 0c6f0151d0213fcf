"""A memory that is closed, or fails, while others use it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from vla_retrieval.errors import MemoryLockedError, StorageError
from vla_retrieval.memory import Memory, MemoryOptions, building
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.maintenance import Maintenance
from vla_retrieval.memory.sharing import SharedLock
from vla_retrieval.memory.snapshot import Frozen
from vla_retrieval.types import CameraPose, Filter, Modality, Nearby, NewEntry, Probe

from .conftest import DIM, OpenMemory
from .oracle import fingerprint, unit_vectors

WAIT = 60


def add(memory: Memory, count: int = 1, seed: int = 0) -> list[int]:
    vectors = unit_vectors(count, DIM, seed)
    return memory.add([NewEntry("do it", 0)] * count, vectors, vectors)


class Gate:
    """Stops a function when it is called, until it may go on."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        original = getattr(owner, name)

        def stopping(*arguments: object, **named: object) -> object:
            self.reached.set()
            assert self.go_on.wait(WAIT)
            return original(*arguments, **named)

        patch.setattr(owner, name, stopping)


class Asked:
    """A lock that says when somebody asks for it."""

    def __init__(self, lock: threading.Lock) -> None:
        self.reached, self._lock = threading.Event(), lock

    def __enter__(self) -> None:
        self.reached.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_closing_waits_for_a_snapshot_that_is_being_written(
    open_memory: OpenMemory, directory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next process could write its own into the same file."""
    memory = open_memory()
    add(memory)
    gate = Gate(monkeypatch, Frozen, "_write")
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(memory.write_snapshot)
        assert gate.reached.wait(WAIT)
        stopping = Gate(monkeypatch, memory._maintenance.keeper, "stop")  # type: ignore[union-attr]
        closing = pool.submit(memory.close)
        assert stopping.reached.wait(WAIT)
        stopping.go_on.set()
        with pytest.raises(MemoryLockedError):
            Memory.open(directory, fingerprint(DIM))  # type: ignore[arg-type]
        assert not closing.done()
        gate.go_on.set()
        writing.result(WAIT)
        closing.result(WAIT)
    assert open_memory().stats().index.opened_from.startswith("the snapshot, 0")


def test_who_closes_a_memory_that_is_being_closed_waits_until_it_is(
    open_memory: OpenMemory, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_retrieval.memory.maintenance._BEHIND_AT_CLOSE", 1)
    memory = open_memory()
    add(memory)
    gate = Gate(monkeypatch, Frozen, "_write")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(memory.close)
        assert gate.reached.wait(WAIT)
        asked = Asked(memory._closing)
        monkeypatch.setattr(memory, "_closing", asked)
        second = pool.submit(memory.close)
        assert asked.reached.wait(WAIT)
        with pytest.raises(MemoryLockedError):
            Memory.open(directory, fingerprint(DIM))
        gate.go_on.set()
        first.result(WAIT)
        second.result(WAIT)
    assert open_memory().stats().index.opened_from.startswith("the snapshot, 0")


def test_an_add_that_is_committed_while_the_memory_closes_is_acknowledged(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    gate = Gate(monkeypatch, Maintenance, "after_change")
    with ThreadPoolExecutor(2) as pool:
        adding = pool.submit(add, memory)
        assert gate.reached.wait(WAIT)
        pool.submit(memory.close).result(WAIT)
        gate.go_on.set()
        assert adding.result(WAIT) == [1]
    monkeypatch.undo()
    assert open_memory().entry_ids() == [1]


def test_a_compaction_that_the_end_of_the_memory_cuts_off_says_that_it_was_closed(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_retrieval.memory.building.FEWEST_TO_FIT", 30)
    memory = open_memory(options=MemoryOptions(index="pq"))
    add(memory, 60)
    assert memory.wait_until_idle()
    gate = Gate(monkeypatch, building, "build")
    assert memory._maintenance is not None
    keeper = memory._maintenance.keeper
    with ThreadPoolExecutor(2) as pool:
        compacting = pool.submit(memory.compact)
        assert gate.reached.wait(WAIT)
        closing = pool.submit(memory.close)
        while not keeper.stopping:
            pass
        gate.go_on.set()
        with pytest.raises(StorageError, match="closed"):
            compacting.result(WAIT)
        closing.result(WAIT)
    monkeypatch.undo()
    assert open_memory().entry_ids() == list(range(1, 61))


def test_whether_a_memory_can_be_used_is_told_beside_a_reader_and_while_entries_wait(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after it was closed."""
    add(memory)
    with memory._live.reading():
        add(memory)
        monkeypatch.setattr(Index, "add", MagicMock(side_effect=AssertionError("it need not")))
        memory.check_usable()
    monkeypatch.undo()
    memory.close()
    with pytest.raises(StorageError, match="closed"):
        memory.check_usable()


def test_the_first_entries_of_a_memory_wait_for_no_reader(open_memory: OpenMemory) -> None:
    memory = open_memory()
    with memory._live.reading():  # where they waited, this would not end
        for _ in range(3):
            add(memory)
    assert memory.stats().entries == 3


def test_an_index_is_not_searched_where_nobody_can_tell_whether_it_is_behind(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    add(memory)

    @contextmanager
    def unreadable(_: Database) -> object:
        raise StorageError("cannot read")
        yield

    def cut_off(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("vla_retrieval.memory.columns.Columns.bury", cut_off)
        patch.setattr(Database, "reading", unreadable)
        with pytest.raises(StorageError):
            memory.remove([1])
    with pytest.raises(StorageError, match="could not follow"):
        memory.search([Probe(Modality.SCENE, unit_vectors(1, DIM, 0)[0])], 1)
    assert open_memory().entry_ids() == []


def test_a_writer_that_is_interrupted_while_it_waits_lets_readers_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = SharedLock()
    waiting, entered = threading.Event(), threading.Event()
    wait_for = lock._changed.wait_for

    def interrupted(condition: object, timeout: float | None = None) -> bool:
        if threading.current_thread() is writer:
            monkeypatch.undo()
            waiting.set()
            wait_for(lambda: not waiting.is_set())
            raise KeyboardInterrupt
        return wait_for(condition, timeout)  # type: ignore[arg-type]

    def write() -> None:
        with pytest.raises(KeyboardInterrupt), lock.alone():
            pass

    def read() -> None:
        with lock.shared():
            entered.set()

    monkeypatch.setattr(lock._changed, "wait_for", interrupted)
    writer = threading.Thread(target=write)
    reader = threading.Thread(target=read)
    with lock.shared():
        writer.start()
        assert waiting.wait(WAIT)
        reader.start()
        while len(lock._changed._waiters) < 2:  # type: ignore[attr-defined]
            pass
        waiting.clear()
        with lock._changed:
            lock._changed.notify(1)
        writer.join(WAIT)
        assert entered.wait(WAIT)
    reader.join(WAIT)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("radius", [1e-100, 1.0, 1e152, 1e200])
def test_no_distance_is_too_large_to_be_compared(memory: Memory, radius: float) -> None:
    far = [0.0, 0.5, 1e150, 1e300]
    poses = [CameraPose("map", 0, (x, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)) for x in far]
    vectors = unit_vectors(len(far), DIM, 0)
    memory.add([NewEntry("x", 0, camera_pose=pose) for pose in poses], vectors, vectors)
    wanted = Filter(near=Nearby((0.0, 0.0, 0.0), radius, "map"))
    found = memory.search([Probe(Modality.SCENE, vectors[0])], 9, filter=wanted)
    near = [i for i, x in enumerate(far, start=1) if x <= min(radius, 1e154)]
    assert sorted(c.entry_id for c in found.candidates) == near
    assert np.isfinite([c.score for c in found.candidates]).all()
