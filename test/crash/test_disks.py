"""Disks that are full, and disks that nobody may write."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import Memory
from vla_retrieval.types import Modality, NewEntry, Probe

from .book import FINGERPRINT, Book, Step, embeddings_of, entry_of, state_of
from .disks import disk, no_space, unwritable
from .killer import KILLED, Killer

SNAPSHOT = "index.snapshot"
MANY = 10_000
FULL = "full|disk I/O error|No space left"


def opened(directory: Path, *, read_only: bool = False, durable: bool = False) -> Memory:
    return Memory.open(directory, FINGERPRINT, durable=durable, read_only=read_only)


def add(memory: Memory, *serials: int) -> list[int]:
    halves = zip(*map(embeddings_of, serials), strict=True)
    return memory.add([entry_of(s) for s in serials], *(np.array(half) for half in halves))


def serials_in(memory: Memory) -> list[int]:
    """Return the serials of what is stored, and check all of it."""
    return [kept.serial for kept in state_of(memory, MANY).kept.values()]


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a disk of 3 MB."""
    with disk(tmp_path / "disk", 3 << 20) as path:
        yield path / "memory"


@pytest.mark.parametrize("durable", [False, True])
def test_a_memory_that_fills_its_disk_refuses_clearly_and_loses_nothing(
    small: Path, durable: bool
) -> None:
    acknowledged = 0
    with opened(small, durable=durable) as memory:
        with suppress(StorageError):
            for acknowledged in range(MANY):
                add(memory, acknowledged)
        with pytest.raises(
            StorageError, match=rf"cannot write to .*({FULL})\..*Nothing was changed"
        ):
            add(memory, *range(acknowledged, acknowledged + 20))
        assert acknowledged > 50
        assert serials_in(memory) == list(range(acknowledged))
        memory.note_use([1])
    with opened(small, durable=durable) as memory:
        assert serials_in(memory) == list(range(acknowledged))


def test_space_that_becomes_free_lets_a_memory_go_on(small: Path) -> None:
    with opened(small) as memory:
        add(memory, 0, 1)
        with no_space(small.parent):
            for _ in range(2):
                with pytest.raises(StorageError, match=FULL):
                    add(memory, *range(2, 400))
            assert serials_in(memory) == [0, 1]
        assert add(memory, 2) == [3]
        assert serials_in(memory) == [0, 1, 2]


def test_forgetting_on_a_full_disk_is_done_or_refused_whole(small: Path) -> None:
    with opened(small) as memory:
        add(memory, *range(40))
        with no_space(small.parent):
            expected = list(range(30, 40))
            try:
                memory.remove(range(1, 31))
            except StorageError:
                expected = list(range(40))
            assert serials_in(memory) == expected
    with opened(small) as memory:
        assert serials_in(memory) == expected


def test_a_snapshot_that_finds_no_room_leaves_the_old_one(small: Path) -> None:
    with opened(small) as memory:
        add(memory, *range(10))
        memory.write_snapshot()
        before = (small / SNAPSHOT).read_bytes()
        add(memory, 10)
        with no_space(small.parent):
            with pytest.raises(StorageError, match=FULL):
                memory.write_snapshot()
            assert (small / SNAPSHOT).read_bytes() == before
            assert "index.snapshot.new" not in names(small)
            assert serials_in(memory) == list(range(11))
    with opened(small) as memory:
        assert memory.stats().index.opened_from.startswith("the snapshot, 1 changes behind")
        assert serials_in(memory) == list(range(11))
        memory.write_snapshot()
    with opened(small) as memory:
        assert memory.stats().index.opened_from.startswith("the snapshot, 0 changes behind")


def test_a_snapshot_that_finds_no_room_at_the_end_is_logged_and_the_memory_closes(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vla_retrieval.memory.maintenance._BEHIND_AT_CLOSE", 5)
    memory = opened(small)
    add(memory, *range(10))
    with no_space(small.parent), caplog.at_level(logging.WARNING):
        memory.close()
    assert "no new snapshot" in caplog.text
    with opened(small) as memory:
        assert serials_in(memory) == list(range(10))


def test_the_memorys_own_thread_survives_a_full_disk(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vla_retrieval.memory.maintenance._BEHIND_AT_LEAST", 5)
    monkeypatch.setattr("vla_retrieval.memory.maintenance._BEHIND_AT_CLOSE", 1)
    write = "vla_retrieval.memory.snapshot.Frozen.write"
    with opened(small) as memory:
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(write, no_room)
            add(memory, *range(10))
            assert memory.wait_until_idle()
        assert "No space left" in caplog.text
        memory._maintenance.keeper.wake()  # for something else, which it can do
        assert memory._maintenance.keeper.wait_until_idle()
        assert "No space left" in memory.stats().index.last_error
        add(memory, 10)
        assert memory.wait_until_idle()
        assert memory.stats().index.last_error == ""
        assert memory.stats().index.snapshot_behind == 0


def no_room(*_: object) -> None:
    raise StorageError("No space left on device")


def test_a_compaction_that_finds_no_room_changes_nothing(small: Path) -> None:
    with opened(small) as memory:
        add(memory, *range(100))
        memory.remove(range(1, 50))
        with no_space(small.parent):
            with pytest.raises(StorageError, match=FULL):
                memory.compact()
            assert serials_in(memory) == list(range(49, 100))
        memory.compact()
        assert serials_in(memory) == list(range(49, 100))
        assert memory.stats().index.dead_rows == 0


def test_on_a_full_disk_a_memory_opens_and_says_so_when_it_is_to_be_written(small: Path) -> None:
    """A node that starts again there answers questions, as it did before."""
    with opened(small) as memory:
        add(memory, *range(20))
    with no_space(small.parent):
        with opened(small, read_only=True) as memory:
            assert serials_in(memory) == list(range(20))
        with opened(small) as memory:
            assert memory.get(1).instruction == "do 0"
            with pytest.raises(StorageError, match=rf"cannot .*memory.*({FULL})"):
                add(memory, 20)
            assert serials_in(memory) == list(range(20))
    with opened(small) as memory:
        assert add(memory, 20) == [21]


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Return a memory of 20 entries with a snapshot, closed."""
    with opened(tmp_path / "memory") as memory:
        add(memory, *range(20))
        memory.write_snapshot()
    return tmp_path / "memory"


def test_reading_only_writes_nothing_into_a_directory(closed: Path) -> None:
    before = {path.name: path.read_bytes() for path in closed.iterdir()}
    with opened(closed, read_only=True) as memory, opened(closed, read_only=True) as other:
        assert serials_in(memory) == serials_in(other) == list(range(20))
        memory.note_use([1])
    assert {path.name: path.read_bytes() for path in closed.iterdir()} == before


def test_a_directory_that_nobody_can_write_is_refused_or_read(closed: Path) -> None:
    with unwritable(closed):
        with pytest.raises(StorageError, match=rf"cannot lock {closed}: Read-only file system"):
            opened(closed)
        with opened(closed, read_only=True) as memory:
            assert serials_in(memory) == list(range(20))
            assert memory.stats().index.opened_from.startswith("the snapshot")
            with pytest.raises(StorageError, match="opened to be read only"):
                add(memory, 20)
    with opened(closed) as memory:
        assert add(memory, 20) == [21]


@pytest.fixture
def killed(killer: Killer, tmp_path: Path) -> Path:
    """Return a memory with commits in its log that are not in its database file."""
    life: list[Step] = [["add", [[0, False], [1, False]]], ["reopen"], ["add", [[2, False]]]]
    directory, book = tmp_path / "memory", Book(MANY)
    points = killer.live(tmp_path / "rehearsal", book, life).points
    at = len(points) - 1 - points[::-1].index("before add is acknowledged")
    assert killer.live(directory, book, life, kill_at=at).status == KILLED
    assert (directory / "memory.sqlite3-wal").stat().st_size > 0
    return directory


def test_commits_in_the_log_of_an_unwritable_directory_are_read(killed: Path) -> None:
    with unwritable(killed), opened(killed, read_only=True) as memory:
        assert serials_in(memory) == [0, 1, 2]
    with opened(killed) as memory:
        assert serials_in(memory) == [0, 1, 2]


def test_commits_in_the_log_are_read_without_a_change_of_any_file(killed: Path) -> None:
    before = {path.name: path.read_bytes() for path in killed.iterdir()}
    with opened(killed, read_only=True) as memory, opened(killed, read_only=True) as other:
        assert serials_in(memory) == serials_in(other) == [0, 1, 2]
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == before


def test_commits_in_the_log_on_a_full_disk_are_read_also_by_who_would_write(
    killed: Path, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", 4 << 20) as place:
        shutil.copytree(killed, place / "memory")
        with no_space(place):
            with opened(place / "memory", read_only=True) as memory:
                assert serials_in(memory) == [0, 1, 2]
            with opened(place / "memory") as memory:
                assert serials_in(memory) == [0, 1, 2]
                with pytest.raises(StorageError, match="full"):
                    add(memory, 3)
        with opened(place / "memory") as memory:
            assert serials_in(memory) == [0, 1, 2]
            assert add(memory, 3) == [4]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o555, 0o755])
def test_who_may_not_write_may_read(closed: Path, mode: int, tmp_path: Path) -> None:
    """With the rights of another user, in a fork, because root's have no bounds."""
    place = Path("/tmp") / f"{tmp_path.parent.name}-{tmp_path.name}-{mode:o}"
    shutil.copytree(closed, place)
    try:
        for path in (place, *place.iterdir()):
            path.chmod(mode if path.is_dir() else 0o444)
        said = as_nobody(place)
    finally:
        shutil.rmtree(place)
    assert said == ["cannot lock: Permission denied", "20 entries, found 1"]


def as_nobody(directory: Path) -> list[str]:
    """Open a memory to write and to read, and return what came of both."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                opened(directory)
            except StorageError as error:
                parts = str(error).split(": ")
                said.append(f"{parts[0].split(' /')[0]}: {parts[1].split('.')[0]}")
            with opened(directory, read_only=True) as memory:
                best = memory.search([Probe(Modality.SCENE, embeddings_of(0)[0])], 1)
                found = best.candidates[0].entry_id
                said.append(f"{memory.stats().entries} entries, found {found}")
        except BaseException as error:
            said.append(repr(error))
        os.write(send, "\n".join(said).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        said = pipe.read().splitlines()
    os.waitpid(child, 0)
    return said


def test_a_large_thumbnail_does_not_fit_where_a_small_one_does(small: Path) -> None:
    scene, instruction = embeddings_of(0)
    halves = scene[np.newaxis], instruction[np.newaxis]
    with opened(small) as memory:
        with pytest.raises(StorageError, match=FULL):
            memory.add([NewEntry("large", 0, thumbnail=bytes(5 << 20))], *halves)
        assert memory.add([NewEntry("small", 0, thumbnail=bytes(100))], *halves) == [1]
