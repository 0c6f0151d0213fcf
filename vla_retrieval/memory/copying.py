"""Entries of one memory in a new one, under their ids, with other embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vla_retrieval.memory import counters
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.checks import check_embeddings
from vla_retrieval.memory.contents import Contents
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.directory import prepare_directory
from vla_retrieval.memory.memory import Memory
from vla_retrieval.memory.names import DATABASE_NAME
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.types import Embeddings, Fingerprint

_OF_AN_ENTRY = ("thumbnails", "usage")


class Copy:
    """A new memory that is being filled. Made by ``copying``.

    Everything of an entry is copied as it is stored: its id, pins and counts as well.
    """

    def __init__(self, database: Database, fingerprint: Fingerprint) -> None:
        """Use ``copying``."""
        self._database = database
        self._fingerprint = fingerprint

    def add(
        self, entry_ids: Sequence[int], scenes: Embeddings, instructions: Embeddings
    ) -> None:  # fmt: skip
        """Copy entries, with new embeddings.

        Args:
            entry_ids: Of entries of the old memory, not copied before.
            scenes: Shape ``(n, dim)``, of the new encoder.
            instructions: Shape ``(n, dim)``, of the new encoder.

        Raises:
            InvalidInputError: If the embeddings are not those of the new encoder.
            StorageError: If the disk refuses.
        """
        shape = (len(entry_ids), self._fingerprint.dim)
        check_embeddings("scenes", scenes, shape, self._fingerprint)
        check_embeddings("instructions", instructions, shape, self._fingerprint)
        with self._database.writing() as connection:
            store.copy(connection, "old", entry_ids, scenes, instructions)
            for table in _OF_AN_ENTRY:
                connection.executemany(
                    f"INSERT INTO main.{table} SELECT * FROM old.{table} WHERE entry_id = ?",
                    [(int(i),) for i in entry_ids],
                )

    def finish(self) -> None:
        """Take over which ids were given out, and what was counted."""
        with self._database.writing() as connection:
            # Or an id that the old memory gave to an entry since removed would name another one.
            last = counters.last_given_out(connection, "old")
            counters.put(connection, counters.GIVEN_OUT, last)
            connection.execute(
                "INSERT INTO main.counters SELECT * FROM old.counters WHERE name IN (?, ?, ?, ?)",
                (
                    counters.MERGED,
                    counters.EVICTED,
                    counters.EVICTED_OVER_ENTRIES,
                    counters.EVICTED_OVER_BYTES,
                ),
            )


@contextmanager
def copying(contents: Contents, directory: Path, fingerprint: Fingerprint) -> Iterator[Copy]:
    """Make a memory and lend what fills it; its index is built when the block ends well.

    The directory is of use to nobody before that: let it have its name afterwards
    (``publishing.published``).

    Args:
        contents: The open directory of the old memory.
        directory: That the new memory is made in.
        fingerprint: Of the encoder of the new memory.

    Raises:
        StorageError: If the disk refuses.
    """
    prepare_directory(directory, create=True, durable=False)
    # Not durable: until the directory has its name, nothing in it has to survive power loss.
    database = Database(directory / DATABASE_NAME, durable=False)
    try:
        database.settle_format(fingerprint, create=True)
        with database.beside(contents.database, "old"):
            copy = Copy(database, fingerprint)
            yield copy
            copy.finish()
    finally:
        database.close()
    options = MemoryOptions(build_threads=os.cpu_count() or 1)
    with Memory.open(directory, fingerprint, contents.similarity(), options=options) as memory:
        memory.wait_until_idle()
        memory.write_snapshot()
