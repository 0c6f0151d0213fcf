"""Removing what is damaged, so that the rest of a memory lives on."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import calibration_store, counters, schema
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.contents import Contents
from vla_retrieval.memory.failures import SQLITE_ERRORS, storage_errors
from vla_retrieval.memory.findings import Part, Report
from vla_retrieval.memory.names import SNAPSHOT_NAME
from vla_retrieval.memory.write_ahead import lost_commits


@dataclass(frozen=True)
class Dropped:
    """What was removed.

    Attributes:
        entry_ids: Entries, whole.
        thumbnail_ids: Entries that are still there, without their thumbnail.
        orphan_tables: Tables that lost rows which belonged to no entry.
        snapshot: Whether the snapshot of the index was removed; the next open makes another.
        calibration: Whether the calibration was removed; ``memory calibrate`` makes another.
        log: Whether what cannot be read of the log was given up.
        counters: Whether counts that cannot be were removed.
    """

    entry_ids: Sequence[int]
    thumbnail_ids: Sequence[int]
    orphan_tables: Sequence[str]
    snapshot: bool
    calibration: bool
    log: bool
    counters: bool

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        return not any(vars(self).values())


def plan(report: Report) -> Dropped:
    """Return what ``drop_damaged`` would remove."""
    return Dropped(
        report.damaged_ids, report.damaged_thumbnail_ids, report.orphan_tables,
        # One of another history than the counts that begin anew is of no use.
        report.has_wrong(Part.SNAPSHOT) or report.has_wrong(Part.COUNTERS),
        report.has_wrong(Part.CALIBRATION),
        report.has_wrong(Part.LOG), report.has_wrong(Part.COUNTERS),
    )  # fmt: skip


def drop_damaged(contents: Contents, report: Report) -> Dropped:
    """Remove the damaged entries, thumbnails and rows without an entry that a check found.

    An entry of which only the thumbnail is damaged keeps all else.

    Args:
        contents: The directory, opened to write.
        report: Of a check of it since.

    Raises:
        StorageError: If the database file itself is damaged, or the disk refuses; then no entry
            was removed.
    """
    dropped = plan(report)
    path = contents.database.path
    lost = lost_commits(contents.directory) if dropped.log else None
    with contents.database.writing() as connection:
        if report.has_wrong(Part.DATABASE):
            _check_mendable(connection, path, dropped)
        if dropped.counters:
            counters.drop_impossible(connection)
        if lost is not None:
            # Which ids they had given out is not known, and none is given out again.
            last = counters.last_given_out(connection)
            counters.put(connection, counters.GIVEN_OUT, last + lost.most_entries)
        store.delete(connection, dropped.entry_ids)
        connection.executemany(
            "DELETE FROM thumbnails WHERE entry_id = ?", [(i,) for i in dropped.thumbnail_ids]
        )
        for table in dropped.orphan_tables:
            connection.execute(
                f"DELETE FROM {table} WHERE entry_id NOT IN (SELECT entry_id FROM entries)"
            )
        if dropped.calibration:
            calibration_store.write(connection, None)
        if report.has_wrong(Part.DATABASE) and not _is_sound(connection):
            raise _damaged_itself(path)
        if dropped.entry_ids:
            # So that a snapshot catches up.
            counters.increase(connection, counters.REMOVED, len(dropped.entry_ids))
    if dropped.log:
        contents.database.fold_log()
    if dropped.snapshot:
        with storage_errors("remove", contents.directory / SNAPSHOT_NAME):
            (contents.directory / SNAPSHOT_NAME).unlink(missing_ok=True)
    return dropped


def _check_mendable(connection: sqlite3.Connection, path: Path, dropped: Dropped) -> None:
    """Check that damage of the file may be that of single rows, which can be removed.

    Where the definition of a table is damaged, every entry looks so.
    """
    rows = (
        dropped.entry_ids, dropped.thumbnail_ids, dropped.orphan_tables, dropped.counters,
        dropped.calibration,
    )  # fmt: skip
    if not any(rows) or schema.strange_tables(connection):
        raise _damaged_itself(path)


def _is_sound(connection: sqlite3.Connection) -> bool:
    try:
        return connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
    except SQLITE_ERRORS:
        return False


def _damaged_itself(path: Path) -> StorageError:
    return StorageError(
        f"{path} is damaged itself, beyond its entries; nothing was removed. Restore the"
        f" directory from a copy, or recover what SQLite can with `sqlite3 {path} .recover`."
    )
