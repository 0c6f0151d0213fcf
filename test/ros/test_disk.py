"""A disk that does not come back holds up nobody but who asked it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.memory import Memory, MemoryStats
from vla_retrieval.ros import session
from vla_retrieval.ros.disk import DiskWatch, Errands, MemoryLostError, WriteGate, try_disk
from vla_retrieval.ros.health import Health
from vla_retrieval.ros.parameters import Settings

WAIT_SEC = 30.0
SHORT_SEC = 0.05


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SEC
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)  # the poll's period


class Hanging:
    """Something that does not come back until it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()

    def wait(self) -> None:
        self.begun.set()
        assert self.released.wait(WAIT_SEC)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.released.set()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "memory", DoubleEncoder().fingerprint) as memory:
        yield memory


def test_what_was_seen_last_is_there_while_the_disk_hangs(
    memory: Memory, tmp_path: Path, hanging: Hanging
) -> None:
    """And for how long it has been hanging; later the watch goes on by itself."""
    looks = 0

    def stats() -> MemoryStats:
        nonlocal looks
        looks += 1
        if looks == 2:
            hanging.wait()
        return memory.stats()

    watch = DiskWatch(tmp_path / "memory", stats, lambda: None, SHORT_SEC)
    assert hanging.begun.wait(WAIT_SEC)
    assert watch.latest.stats is not None
    assert watch.latest.stats.entries == 0
    wait_until(lambda: watch.waiting_sec > 2 * SHORT_SEC)
    hanging.released.set()
    wait_until(lambda: looks > 3)
    watch.stop()
    assert watch.waiting_sec == 0.0


def test_a_lost_memory_is_told_from_one_that_may_not_be_looked_at(
    memory: Memory, tmp_path: Path
) -> None:
    """The first has to be closed, the second comes back with the permission."""

    def seen(error: Exception) -> tuple[str, str]:
        def check() -> None:
            raise error

        watch = DiskWatch(tmp_path / "memory", memory.stats, check, 60.0)
        watch.stop()
        return watch.latest.lost, watch.latest.error

    assert seen(MemoryLostError("gone")) == ("gone", "")
    assert seen(StorageError("forbidden")) == ("", "forbidden")


@pytest.mark.parametrize("why", [OSError("no such file"), MemoryError("no room")])
def test_a_memory_is_seen_to_be_lost_also_where_nothing_else_can_be_read(
    tmp_path: Path, why: Exception
) -> None:
    """As where its disk was taken out: it has to be closed then, too."""

    def check() -> None:
        raise MemoryLostError("gone")

    def stats() -> MemoryStats:
        raise why

    watch = DiskWatch(tmp_path, stats, check, 60.0)
    watch.stop()
    assert watch.latest.lost == "gone"
    assert str(why) in watch.latest.error


@pytest.mark.parametrize("may_write", [True, False])
def test_whether_the_directory_may_be_written_is_seen_before_anybody_tries(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_write: bool
) -> None:
    asked: list[tuple[Path, int]] = []

    def access(path: Path, mode: int) -> bool:
        asked.append((path, mode))
        return may_write

    monkeypatch.setattr("vla_retrieval.ros.disk.os.access", access)
    watch = DiskWatch(tmp_path / "memory", memory.stats, lambda: None, 60.0)
    watch.stop()
    assert watch.latest.writable is may_write
    assert asked == [(tmp_path / "memory", os.W_OK)]


def test_the_age_of_the_snapshot_is_seen_once_there_is_one(memory: Memory, tmp_path: Path) -> None:
    def age_sec() -> float | None:
        watch = DiskWatch(tmp_path / "memory", memory.stats, lambda: None, 60.0)
        watch.stop()
        return watch.latest.snapshot_age_sec

    assert age_sec() is None
    memory.write_snapshot()
    age = age_sec()
    assert age is not None
    assert 0.0 <= age < WAIT_SEC


def test_a_removed_directory_is_an_error_of_the_look(memory: Memory, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "memory")
    watch = DiskWatch(tmp_path / "memory", memory.stats, lambda: None, 60.0)
    watch.stop()
    assert str(tmp_path / "memory") in watch.latest.error
    assert watch.latest.stats is None


def hold(gate: WriteGate, hanging: Hanging) -> threading.Thread:
    """Begin a change in a thread of its own, which stays."""

    def write() -> None:
        with gate.passing():
            hanging.wait()

    thread = threading.Thread(target=write)
    thread.start()
    assert hanging.begun.wait(WAIT_SEC)
    return thread


def test_a_change_waits_for_the_one_before(hanging: Hanging) -> None:
    """Which comes back in time."""
    gate = WriteGate(Path("/memory"), WAIT_SEC)
    holder = hold(gate, hanging)
    order: list[str] = []

    def write() -> None:
        with gate.passing():
            order.append("second")

    second = threading.Thread(target=write)
    second.start()
    assert gate.stuck_sec == 0.0
    order.append("first")
    hanging.released.set()
    holder.join(WAIT_SEC)
    second.join(WAIT_SEC)
    assert order == ["first", "second"]


def test_nobody_waits_behind_a_change_that_stays(hanging: Hanging) -> None:
    """It is refused with the directory, and taken again when the first one has come back."""
    gate = WriteGate(Path("/memory"), SHORT_SEC)
    holder = hold(gate, hanging)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"/memory.*Nothing was changed"), gate.passing():
            pytest.fail("the block was run")
    with pytest.raises(StorageError, match="an earlier change"):
        gate.check()
    assert gate.stuck_sec >= SHORT_SEC
    hanging.released.set()
    holder.join(WAIT_SEC)
    gate.check()
    with gate.passing():
        pass
    assert gate.stuck_sec == 0.0


def test_a_change_that_fails_leaves_the_gate_open() -> None:
    gate = WriteGate(Path("/memory"), WAIT_SEC)
    with pytest.raises(ZeroDivisionError), gate.passing():
        raise ZeroDivisionError
    with gate.passing():
        pass


def test_an_errand_returns_or_raises_as_the_function_does() -> None:
    errands = Errands(WAIT_SEC)
    assert errands.run("read", lambda: 5) == 5

    def refuse() -> None:
        raise InvalidInputError("head", "a file", "none")

    with pytest.raises(InvalidInputError, match="head"):
        errands.run("read", refuse)


def test_an_errand_that_does_not_come_back_is_given_up(hanging: Hanging) -> None:
    """Others are not even begun behind it, until it has."""
    errands = Errands(SHORT_SEC)
    with pytest.raises(StorageError, match="cannot read the head: the disk did not answer"):
        errands.run("read the head", hanging.wait)
    begun: list[bool] = []
    with pytest.raises(StorageError, match="did not answer"):
        errands.run("read", lambda: begun.append(True))
    assert not begun
    hanging.released.set()

    def works_again() -> bool:
        try:
            return errands.run("read", lambda: True)
        except StorageError:
            return False

    wait_until(works_again)


def test_an_errand_may_have_another_patience_than_most(hanging: Hanging) -> None:
    errands = Errands(2 * WAIT_SEC)
    with pytest.raises(StorageError, match="the disk did not answer"):
        errands.run("read the head", hanging.wait, SHORT_SEC)


def test_a_disk_is_tried_by_waiting_for_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the directory is still to be made; what refuses it is left for opening."""
    waited: list[int] = []

    def refuse(file: int) -> None:
        waited.append(os.fstat(file).st_size)
        raise OSError("no space left")

    monkeypatch.setattr("vla_retrieval.ros.disk.os.fsync", refuse)
    try_disk(tmp_path / "robot" / "memory")
    assert waited == [1]
    assert not list(tmp_path.iterdir())


def test_a_look_that_fails_in_an_unknown_way_is_told_and_not_the_last(
    memory: Memory, tmp_path: Path
) -> None:
    ends: list[Exception] = [MemoryError("no room"), MemoryError("no room")]

    def stats() -> MemoryStats:
        if ends:
            raise ends.pop()
        return memory.stats()

    watch = DiskWatch(tmp_path / "memory", stats, lambda: None, SHORT_SEC)
    assert "no room" in watch.latest.error
    wait_until(lambda: watch.latest.stats is not None)
    watch.stop()
    assert watch.latest.error == ""


@pytest.mark.parametrize("part", ["DiskWatch", "FrameReader", "Lanes"])
def test_a_session_that_cannot_be_opened_gives_the_memory_free(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next configure would find it locked, by its own process."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    settings = Settings(memory_dir=str(tmp_path / "memory"), model="double", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(session, part, refuse)
        with pytest.raises(RuntimeError, match="new thread") as refused:
            session.Session(settings, Health())
    opened = session.Session(settings, Health())
    opened.close()
    assert refused  # and with it, the frames that hold what was opened


def test_what_kept_an_earlier_session_from_writing_is_not_held_against_the_next(
    tmp_path: Path,
) -> None:
    """A node that only answers would say so for good."""
    health = Health()
    health.note_write(StorageError("the disk is full"))
    settings = Settings(memory_dir=str(tmp_path / "memory"), model="double", device="cpu")
    session.Session(settings, health).close()
    assert health.write_error == ""
    assert health.facts()["last_error"] == "the disk is full"
