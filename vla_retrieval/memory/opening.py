"""From a directory to an index that holds what is committed."""

from __future__ import annotations

import logging
import sqlite3
import time
from dataclasses import dataclass, replace
from pathlib import Path

from vla_retrieval.memory import building, counters, snapshot
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.projection import Head, projected_fingerprint
from vla_retrieval.types import Fingerprint, Similarity

_log = logging.getLogger(__name__)

_WORTH_A_WARNING = 1_000  # entries: below, building anew takes no time that anybody notices


@dataclass(frozen=True)
class Opened:
    """An index and where it stands.

    Attributes:
        index: Holds what is committed.
        sequence: The last commit.
        behind: Changed entries that the snapshot does not have.
        mark: Of the snapshot on disk, or 0.
        source: Where it came from, for people.
        last_id: The highest id in the snapshot, also where it was not used, or 0.
    """

    index: Index
    sequence: int
    behind: int
    mark: int
    source: str
    last_id: int = 0


class _ForeignError(snapshot.SnapshotError):
    """A snapshot is of another history than the database.

    Attributes:
        last_id: The highest in it.
    """

    def __init__(self, last_id: int) -> None:
        super().__init__("it is of another history than the database")
        self.last_id = last_id


def open_index(
    directory: Path,
    database: Database,
    fingerprint: Fingerprint,
    similarity: Similarity,
    options: MemoryOptions,
    head: Head | None = None,
) -> Opened:
    """Read the snapshot and catch up, or build the index from the database.

    A snapshot of another head, or of none, is not used.

    Raises:
        MemoryFormatError: If an entry that has to be read is damaged.
        StorageError: If the database cannot be read.
    """
    started = time.perf_counter()
    with database.reading() as connection:
        try:
            restored = _restored(connection, directory, fingerprint, similarity, options, head)
        except snapshot.SnapshotError as error:
            source = f"the database, because of the snapshot: {error}"
            built = _built(connection, database, fingerprint, similarity, options, source, head)
            return replace(built, last_id=error.last_id if isinstance(error, _ForeignError) else 0)
        index = restored.index
        index.threads = options.search_threads
        sequence = counters.sequence(connection)
        behind = 0
        if restored.sequence != sequence:
            before = index.columns.rows, index.columns.dead
            removed = counters.read(connection, counters.REMOVED) != restored.removed
            building.catch_up(index, database, removed=removed)
            behind = index.columns.rows - before[0] + index.columns.dead - before[1]
    seconds = time.perf_counter() - started
    source = f"the snapshot, {behind} changes behind, in {seconds:.2f} s"
    return Opened(index, sequence, behind, restored.mark, source)


def _restored(
    connection: sqlite3.Connection,
    directory: Path,
    fingerprint: Fingerprint,
    similarity: Similarity,
    options: MemoryOptions,
    head: Head | None,
) -> snapshot.Restored:
    restored = snapshot.read(directory, fingerprint, similarity, head, options.vectors_in)
    marks = [counters.read(connection, n) for n in (counters.SNAPSHOT, counters.SNAPSHOT_BEFORE)]
    if restored.mark not in marks or restored.sequence > counters.sequence(connection):
        raise _ForeignError(int(restored.index.columns.entry_ids.max(initial=0)))
    return restored


def _built(
    connection: sqlite3.Connection,
    database: Database,
    fingerprint: Fingerprint,
    similarity: Similarity,
    options: MemoryOptions,
    source: str,
    head: Head | None,
) -> Opened:
    """Build from the database; fitting codes waits for the keeper, unless RAM is too small."""
    count = store.count(connection)
    say = _log.warning if count > _WORTH_A_WARNING else _log.debug
    say("building the index from %s", source)
    width = projected_fingerprint(fingerprint, head).dim
    kind = building.choose(options, count, width)
    exact = not building.in_bytes(options, count, width, kind)
    index = building.build(
        database, fingerprint.dim, similarity, options, exact=exact, head=head
    )  # fmt: skip
    return Opened(index, counters.sequence(connection), count, 0, source)
