"""What a memory's directory holds, read without an index: for tools.

``Memory`` refuses a directory whose entries are damaged when it has to read them; this opens
whatever SQLite opens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vla_retrieval.memory import entries as store
from vla_retrieval.memory import snapshot
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.directory import prepare_directory
from vla_retrieval.memory.entries import Portion
from vla_retrieval.memory.lock import DirectoryLock
from vla_retrieval.memory.names import DATABASE_NAME
from vla_retrieval.memory.write_ahead import check_log
from vla_retrieval.types import Fingerprint, Similarity

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many of it are done, and of how many."""


def silent(doing: str, done: int, total: int) -> None:
    """Be told of progress and do nothing."""


@dataclass(frozen=True)
class Contents:
    """An open directory, which nobody else writes meanwhile.

    Attributes:
        directory: Of the memory.
        database: Its entries.
        fingerprint: Of the encoder that made its embeddings.
    """

    directory: Path
    database: Database
    fingerprint: Fingerprint

    def count(self) -> int:
        """Return the number of entries.

        Raises:
            StorageError: If it cannot be read.
        """
        with self.database.reading() as connection:
            return store.count(connection)

    def portions(self) -> Iterator[Portion]:
        """Yield all entries with their thumbnails and embeddings, ascending, some at a time.

        Raises:
            MemoryFormatError: If one is damaged.
            StorageError: If they cannot be read.
        """
        path = self.database.path
        with self.database.reading() as connection:
            for portion in store.read_portions(connection, self.fingerprint.dim, path):
                jpegs = dict(store.read_thumbnails(connection, portion.entry_ids, path))
                whole = [
                    dataclasses.replace(entry, thumbnail=jpegs.get(entry.entry_id, b""))
                    for entry in portion.entries
                ]
                yield portion._replace(entries=whole)

    def similarity(self) -> Similarity:
        """Return how the memory was searched when its snapshot was written, else cosine."""
        try:
            return snapshot.similarity_of(self.directory)
        except snapshot.SnapshotError:
            return Similarity.COSINE


@contextmanager
def open_contents(
    directory: Path, *, write: bool = False, to_check: bool = False
) -> Iterator[Contents]:
    """Open a memory's directory and hold its lock: shared, or alone to write.

    Args:
        directory: Of the memory.
        write: Whether it is to be written.
        to_check: Whether the caller names what is damaged; else a damaged log is told here.

    Raises:
        MemoryLockedError: If a process has it open to write, or to read and this is to write.
        MemoryFormatError: If it is not a memory, or SQLite cannot read it.
        StorageError: If it cannot be read or written.
    """
    prepare_directory(directory, create=False, durable=True)
    lock = DirectoryLock(directory, shared=not write)
    try:
        database = Database(directory / DATABASE_NAME, durable=True, read_only=not write)
        try:
            if not to_check:
                check_log(directory, durable=False)
            yield Contents(directory, database, database.settle_format(None, create=False))
        finally:
            database.close()
    finally:
        lock.release()
