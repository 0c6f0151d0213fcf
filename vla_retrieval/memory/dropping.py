"""Removing what is damaged, so that the rest of a memory lives on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import calibration_store, counters
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.contents import Contents
from vla_retrieval.memory.failures import storage_errors
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
    """

    entry_ids: Sequence[int]
    thumbnail_ids: Sequence[int]
    orphan_tables: Sequence[str]
    snapshot: bool
    calibration: bool
    log: bool

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        return not any(vars(self).values())


def plan(report: Report) -> Dropped:
    """Return what ``drop_damaged`` would remove."""
    return Dropped(
        report.damaged_ids, report.damaged_thumbnail_ids, report.orphan_tables,
        report.has_wrong(Part.SNAPSHOT), report.has_wrong(Part.CALIBRATION),
        report.has_wrong(Part.LOG),
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
    if report.has_wrong(Part.DATABASE):
        raise StorageError(
            f"{path} is damaged itself, beyond its entries; nothing was removed. Restore the"
            " directory from a copy, or recover what SQLite can with"
            f" `sqlite3 {path} .recover`."
        )
    lost = lost_commits(contents.directory) if dropped.log else None
    with contents.database.writing() as connection:
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
        if dropped.entry_ids:
            # So that a snapshot catches up.
            counters.increase(connection, counters.REMOVED, len(dropped.entry_ids))
    if dropped.log:
        contents.database.fold_log()
    if dropped.snapshot:
        with storage_errors("remove", contents.directory / SNAPSHOT_NAME):
            (contents.directory / SNAPSHOT_NAME).unlink(missing_ok=True)
    return dropped
