"""The directory of a memory: made, or checked to be one, before anything is written to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vla_retrieval.errors import MemoryFormatError
from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.memory.names import DATABASE_NAME, LOCK_NAME, LOG_NAME, SNAPSHOT_NAME

# What a file system or a killed start may leave in a directory that is otherwise empty.
_HARMLESS = {LOCK_NAME, "lost+found"}


def prepare_directory(directory: Path, *, create: bool, durable: bool) -> None:
    """Check that the directory is a memory's, or make it one's.

    Args:
        directory: That the memory is, or will be, kept in.
        create: Whether an empty or missing directory will do.
        durable: Whether a new directory must survive power loss.

    Raises:
        MemoryFormatError: If it holds something else, or is a file, or no memory is there and
            none is to be created.
        StorageError: If it cannot be read or made.
    """
    with storage_errors("use", directory):
        if directory.exists() and not directory.is_dir():
            raise MemoryFormatError(
                f"{directory}: expected a directory, got a file. Give the directory of a memory,"
                " or one that does not exist yet."
            )
        names = {path.name for path in directory.iterdir()} if directory.exists() else set()
        if DATABASE_NAME in names:
            _check_not_emptied(directory)
            return
        foreign = sorted(n for n in names - _HARMLESS if not n.startswith("."))
        if foreign:
            raise MemoryFormatError(
                f"{directory}: expected a memory ({DATABASE_NAME}) or an empty directory, got"
                f" {', '.join(foreign[:5])}. Give a directory of its own."
            )
        if not create:
            state = "an empty directory" if directory.exists() else "nothing there"
            raise MemoryFormatError(
                f"{directory}: expected a memory ({DATABASE_NAME}), got {state}."
                " Check the path, or let a memory be created."
            )
        _make(directory, durable=durable)


def _check_not_emptied(directory: Path) -> None:
    """Refuse a database without a byte beside what only one with entries has.

    SQLite would remove the log, with all that is in it, also where it only reads.
    """
    if (directory / DATABASE_NAME).stat().st_size:
        return
    log = directory / LOG_NAME
    if (directory / SNAPSHOT_NAME).exists() or (log.exists() and log.stat().st_size):
        raise MemoryFormatError(
            f"{directory / DATABASE_NAME} is damaged: expected a database, got a file of 0 bytes"
            " beside what one with entries leaves. Restore the directory from a copy, or move it"
            " away to start empty."
        )


def _make(directory: Path, *, durable: bool) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    if durable:
        for path in missing:
            sync(path.parent)


def sync(directory: Path) -> None:
    """Fsync a directory: protects the names of what was made in it from power loss."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_bytes(directory: Path) -> int:
    """Return the size of all files in a memory's directory."""
    with storage_errors("read", directory):
        return sum(map(_file_bytes, directory.iterdir()))


def _file_bytes(path: Path) -> int:
    try:
        found = path.stat()
    except FileNotFoundError:  # a snapshot that has got its name since the directory was read
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
