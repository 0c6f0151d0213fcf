"""The write-ahead log is copied into the database beside those who add and ask."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import Memory
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.names import DATABASE_NAME
from vla_retrieval.types import Modality, NewEntry, Probe

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

ENOUGH = 512  # entries, after which the log is copied
VECTORS = unit_vectors(2 * ENOUGH, DIM, 1)
WAIT_SEC = 60.0


def add(memory: Memory, count: int, first: int = 0) -> None:
    """Add entries, each in a commit of its own."""
    for number in range(first, first + count):
        row = VECTORS[number : number + 1]
        memory.add([NewEntry(f"task {number}", number)], row, row)


def open_files(directory: Path) -> list[str]:
    """Return the names of the files in a directory that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            file = descriptor.readlink()
            if file.parent == directory.resolve():
                found.append(file.name)
    return found


def in_the_file(directory: Path, folder: Path) -> int:
    """Return how many entries the database's file has, without its log."""
    copy = shutil.copy(directory / DATABASE_NAME, folder / "alone.sqlite3")
    uri = f"file:{copy}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'entries'").fetchone():
            return 0
        return int(connection.execute("SELECT COUNT(*) FROM entries").fetchone()[0])


def test_many_entries_reach_the_file_while_the_memory_is_open(
    open_memory: OpenMemory, directory: Path, tmp_path: Path
) -> None:
    """So that neither the writer nor the next open has a long log in front of it."""
    memory = open_memory(durable=True)
    add(memory, ENOUGH - 1)
    assert memory.wait_until_idle(WAIT_SEC)
    assert in_the_file(directory, tmp_path) == 0
    add(memory, 1, ENOUGH - 1)
    assert memory.wait_until_idle(WAIT_SEC)
    assert in_the_file(directory, tmp_path) == ENOUGH


def test_the_log_begins_anew_also_beside_a_writer_that_never_pauses(
    open_memory: OpenMemory, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that makes the log's file longer takes the disk twice as long."""
    memory = open_memory(durable=True)
    copy, copies = Database.copy_log, []

    def copy_in_vain_first(database: Database) -> None:
        copies.append(memory._live._writing.locked())
        if len(copies) > 1:  # the first time, all of it is committed while the log is copied
            copy(database)

    flush, flushes = Database.flush, []

    def flush_while_nobody_waits(database: Database) -> None:
        flushes.append(memory._live._writing.locked())
        flush(database)

    monkeypatch.setattr(Database, "copy_log", copy_in_vain_first)
    monkeypatch.setattr(Database, "flush", flush_while_nobody_waits)
    add(memory, ENOUGH)
    assert memory.wait_until_idle(WAIT_SEC)
    log = directory / f"{DATABASE_NAME}-wal"
    length = log.stat().st_size
    add(memory, ENOUGH // 4, ENOUGH)
    assert log.stat().st_size == length > 0
    assert copies == [False, True]
    assert flushes == [False]


def test_a_memory_that_was_closed_keeps_no_file_open(
    open_memory: OpenMemory, directory: Path
) -> None:
    memory = open_memory(durable=True)
    add(memory, ENOUGH)
    assert memory.wait_until_idle(WAIT_SEC)
    assert DATABASE_NAME in open_files(directory)
    memory.close()
    assert open_files(directory) == []


def test_nobody_waits_while_the_log_is_copied(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slow at it slows down neither adds nor searches."""
    entered, released = threading.Event(), threading.Event()

    def copy_slowly(_: Database) -> None:
        entered.set()
        assert released.wait(WAIT_SEC)

    monkeypatch.setattr(Database, "copy_log", copy_slowly)
    add(memory, ENOUGH)
    try:
        assert entered.wait(WAIT_SEC)
        add(memory, 50, ENOUGH)
        probe = Probe(Modality.SCENE, VECTORS[ENOUGH + 49], 1.0, Modality.SCENE)
        (best,) = memory.search([probe], 1).candidates
        assert best.entry_id == ENOUGH + 50
    finally:
        released.set()
    assert memory.wait_until_idle(WAIT_SEC)


def test_a_log_that_cannot_be_copied_is_told_and_tried_again(
    memory: Memory, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries are safe in the log; nobody who adds is refused for it."""
    with monkeypatch.context() as patched:

        def refuse(_: Database) -> None:
            raise StorageError("cannot write to the disk: it is full")

        patched.setattr(Database, "copy_log", refuse)
        add(memory, ENOUGH)
        assert memory.wait_until_idle(WAIT_SEC)
        assert "it is full" in memory.stats().index.last_error
    add(memory, ENOUGH, ENOUGH)
    assert memory.wait_until_idle(WAIT_SEC)
    assert in_the_file(directory, tmp_path) == 2 * ENOUGH
    assert memory.stats().index.last_error == ""


def test_a_disk_that_fails_while_the_writer_waits_costs_no_answer(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was committed in that turn, also where the disk cannot say so."""
    copies: list[bool] = []

    def refuse(_: Database) -> None:
        copies.append(memory._live._writing.locked())
        if copies[-1]:
            monkeypatch.setattr(memory._live, "is_behind", lambda: True)
            raise StorageError("cannot write to the disk: it fails")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "copy_log", refuse)
        add(memory, ENOUGH)
        assert memory.wait_until_idle(WAIT_SEC)
    assert copies == [False, True]
    assert "it fails" in memory.stats().index.last_error
    probe = Probe(Modality.SCENE, VECTORS[7], 1.0, Modality.SCENE)
    assert memory.search([probe], 1).candidates[0].entry_id == 8
    add(memory, 1, ENOUGH)
    assert len(memory.entry_ids()) == ENOUGH + 1


def test_what_is_copied_reaches_the_disk_before_the_writer_has_to_wait(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else SQLite would see to it while the rest is copied, in the writer's turn."""
    memory = open_memory(durable=True)
    copy, fsync, steps = Database.copy_log, os.fsync, []

    def noted_copy(database: Database) -> None:
        steps.append("copy")
        copy(database)

    def noted_fsync(descriptor: int) -> None:
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(Database, "copy_log", noted_copy)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    add(memory, ENOUGH)
    assert memory.wait_until_idle(WAIT_SEC)
    assert steps == ["copy", DATABASE_NAME, "copy"]


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
def test_a_commit_waits_for_the_disk_where_the_memory_is_durable_and_only_there(
    open_memory: OpenMemory, durable: bool, synchronous: int
) -> None:
    """By SQLite's numbers for FULL and NORMAL: without them only a loss of power could tell."""
    with open_memory(durable=durable)._database.writing() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)


def test_a_log_that_a_large_commit_made_long_does_not_stay_so(memory: Memory) -> None:
    with memory._database.writing() as connection:
        assert connection.execute("PRAGMA journal_size_limit").fetchone() == (64 << 20,)


def test_compacting_frees_the_disk_while_the_memory_is_open(
    memory: Memory, directory: Path
) -> None:
    """Of the database, and of the log through which it is written anew."""
    vectors = VECTORS[:40]
    memory.add([NewEntry("do it", 0, thumbnail=bytes(50_000))] * 40, vectors, vectors)
    memory.remove(range(2, 41))
    memory.compact()
    log = directory / f"{DATABASE_NAME}-wal"
    assert (directory / DATABASE_NAME).stat().st_size < 500_000
    assert log.stat().st_size < 500_000
