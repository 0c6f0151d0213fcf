"""Making commits behind a damaged frame of SQLite's log readable again.

A flipped bit in the log hides every later commit, though each of those is there whole. With
checksums that hold, SQLite reads them all; what the bit did to a page is found by the checksums of
entries, and dropped as such damage is.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import schema, write_ahead
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.directory import prepare_directory, sync
from vla_retrieval.memory.failures import SQLITE_ERRORS, storage_errors
from vla_retrieval.memory.lock import DirectoryLock
from vla_retrieval.memory.names import DATABASE_NAME, LOCK_NAME, LOG_NAME

_PLACE = ".mending"  # names with a dot are overlooked in a memory's directory


def mend_log(directory: Path) -> bool:
    """Let all commits in the damaged log of a memory be read again.

    The log stays as it was where the database would not be sound with it, which is tried first.

    Returns:
        Whether it was mended; not where nothing of it is lost either.

    Raises:
        MemoryLockedError: If a process has the memory open.
        MemoryFormatError: If there is none.
        StorageError: If the directory cannot be written.
    """
    prepare_directory(directory, create=False, durable=True)
    lock = DirectoryLock(directory)
    try:
        content = write_ahead.mended(directory)
        return content is not None and _replace(directory, content)
    finally:
        lock.release()


def _replace(directory: Path, log: bytes) -> bool:
    place = directory / _PLACE
    with storage_errors("write to", directory):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            (place / LOCK_NAME).touch()  # so that it is read without a change of any file
            try:
                os.link(directory / DATABASE_NAME, place / DATABASE_NAME)
            except OSError:  # a file system without links
                return False
            with (place / LOG_NAME).open("wb") as file:
                file.write(log)
                file.flush()
                os.fsync(file.fileno())
            if not _is_sound(place / DATABASE_NAME):
                return False
            (place / LOG_NAME).replace(directory / LOG_NAME)
            sync(directory)
            return True
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _is_sound(path: Path) -> bool:
    """Return whether SQLite finds no fault, and the tables are ours."""
    try:
        database = Database(path, durable=True, read_only=True)
        try:
            with database.reading() as connection:
                found = connection.execute("PRAGMA integrity_check(1)").fetchone()
                return found == ("ok",) and not schema.strange_tables(connection)
        finally:
            database.close()
    except (*SQLITE_ERRORS, StorageError):
        return False
