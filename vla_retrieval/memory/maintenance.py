"""What is done beside the users: a better index, a new snapshot, counts that are written down."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import building, counters, snapshot
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.eviction import Standing
from vla_retrieval.memory.index import Index, IndexKind
from vla_retrieval.memory.keeper import Keeper
from vla_retrieval.memory.live import LiveIndex
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.projection import Head, name_of
from vla_retrieval.types import Fingerprint

_log = logging.getLogger(__name__)

_BEHIND_AT_LEAST = 10_000
"""Changes after which a snapshot is written, or a tenth of the entries where that is more: a few
seconds to catch up with at the next open, and the disk is written about ten times over in all."""

_BEHIND_AT_CLOSE = 1_000
"""The same when a memory is closed; fewer are read from the database in no time."""

_WAITING = 128
"""Entries not in the index yet that it is worth to wake the thread for."""

_COPIED_AFTER = 512
"""Changed entries, of some pages each, after which the database's log is copied into it."""

_OVER_BUDGET = 1.5
_CAUGHT_UP = 200  # entries that a writer may wait for
_USES_AT_ONCE = 1_000
_LOOKED_AFTER = 1 / 128  # of the entries have changed
_LOOKED_AFTER_AT_MOST = 256  # entries


class Maintenance:
    """Keeps the index fit and its snapshot fresh.

    Args:
        directory: Of the memory.
        database: Its entries.
        live: Its index.
        standing: What eviction knows.
        fingerprint: Of its embeddings.
        options: How it is run.
    """

    def __init__(
        self,
        directory: Path,
        database: Database,
        live: LiveIndex,
        standing: Standing,
        fingerprint: Fingerprint,
        options: MemoryOptions,
    ) -> None:
        """Start the thread."""
        self._directory = directory
        self._database = database
        self._live = live
        self._standing = standing
        self._fingerprint = fingerprint
        self._options = options
        # One rebuild or snapshot at a time: by the thread, or by who asks for one.
        self._busy = threading.Lock()
        with live.reading() as index:
            self._head = index.head  # that is wanted; the index may have another one yet
        # Changes at which it is looked again whether something is due.
        self._look_at = 0
        self._hold_at = 0
        self._copied_at = 0  # changes at which the log was copied
        # Why there is no new snapshot, and the changes behind at which it is tried again.
        self._no_snapshot, self._not_before = "", 0
        self.keeper = Keeper(self._run, "memory keeper")

    def before_adding(self) -> None:
        """Hold back whoever adds faster than a smaller index can be built.

        A robot never meets this; filling a memory from a file does, and would otherwise take
        several times the RAM that it was given.
        """
        if self._live.changes < self._hold_at:
            return
        self._hold_at = self._next_look()
        if self.overdue():
            self.keeper.wake()
            self.keeper.wait_until_idle()

    def overdue(self) -> str:
        """Return why ``before_adding`` would hold back, or nothing."""
        most_bytes = _OVER_BUDGET * self._options.index_bytes
        seen = self._live.glance()
        rows = len(seen)
        # By the rows that are there; only near the bound is it worth to wait for readers.
        if not rows or seen.size_bytes / rows * (rows + self._live.waiting) <= most_bytes:
            return ""
        with self._live.reading() as index:
            if index.size_bytes <= most_bytes:
                return ""
            return building.outgrown(index, self._options)

    def after_change(self) -> None:
        """Look whether something is due, if much has changed; called after each commit."""
        if self._live.changes >= self._look_at or self._standing.unsaved >= _USES_AT_ONCE:
            self.look()
        # The thread begins with the log and the index, so that the next commits find both short.
        if self._log_is_long() or self._live.waiting >= _WAITING:
            self.keeper.wake()

    def wait_until_idle(self, timeout_sec: float | None = None) -> bool:
        """Wait until nothing is due; return whether that was so in time."""
        begun = time.monotonic()
        # What is under way first: it may be what is due, or fail and wait for its next time.
        if not self.keeper.wait_until_idle(timeout_sec):
            return False
        with suppress(StorageError), self._live.reading():
            pass  # now each entry counts
        self.look()
        left = None if timeout_sec is None else timeout_sec - (time.monotonic() - begun)
        return self.keeper.wait_until_idle(left)

    def look(self) -> None:
        """Look whether something is due; the last few entries may not be in the index yet."""
        try:
            index = self._live.glance()
            self._look_at = self._next_look()
        except StorageError:  # closed since the commit, which is acknowledged all the same
            return
        due = bool(self._reason_to_rebuild(index)) or self._snapshot_due(index)
        if due or self._standing.unsaved >= _USES_AT_ONCE:
            self.keeper.wake()

    def _next_look(self) -> int:
        """Return how many changes there may be until something can be due, or nearly so."""
        some = int(len(self._live.glance()) * _LOOKED_AFTER)
        return self._live.changes + max(1, min(some, _LOOKED_AFTER_AT_MOST))

    @property
    def last_error(self) -> str:
        """What went wrong when it was last kept in order and is not put right yet, or empty."""
        return self.keeper.last_error or self._no_snapshot

    @property
    def head(self) -> Head | None:
        """The head that the index has, or will have when it is built anew."""
        return self._head

    def use_head(self, head: Head | None) -> None:
        """Build the index anew with another head in the background, and use it from then on."""
        if not _same_head(head, self._head):  # else a build for it would begin again
            self._head = head
        self.keeper.wake()

    def close(self) -> None:
        """Stop the thread; write the snapshot if the database is far ahead of it.

        Waits for who rebuilds or writes a snapshot: the next process must not meet its files.
        """
        self.keeper.stop()
        with self._busy:
            self._close()

    def _close(self) -> None:
        if not self._live.usable:
            return
        try:
            self._save_uses()
            with self._live.reading() as index:
                worth_it = len(index) >= _BEHIND_AT_CLOSE
            if worth_it and self._live.behind >= _BEHIND_AT_CLOSE:
                self._write_snapshot()
        except StorageError as error:  # entries are in the database
            _log.warning("no new snapshot, the next open takes longer: %s", error)

    def write_snapshot(self) -> None:
        """Write the index to disk, as it is now.

        Raises:
            StorageError: If the disk refuses; the old snapshot stays.
        """
        with self._busy:
            self._write_snapshot()

    def rebuild(self, reason: str) -> None:
        """Build the index anew from the database, and use it from then on.

        Queries are answered with the old one meanwhile, and entries may come and go.

        Raises:
            MemoryFormatError: If an entry is damaged.
            StorageError: If the database cannot be read, or the memory is closed meanwhile.
        """
        with self._busy:
            try:
                self._rebuild(reason, lambda: self.keeper.stopping)
            except building.GivenUpError as error:
                raise StorageError(f"{self._directory}: this memory was closed.") from error

    def _log_is_long(self) -> bool:
        return self._live.changes - self._copied_at >= _COPIED_AFTER

    def _copy_log(self) -> None:
        self._copied_at = self._live.changes
        self._database.copy_log()
        self._database.flush()
        # What was committed meanwhile is little, and copied while the writer waits: beside one that
        # never pauses the log would otherwise never begin anew.
        failure = None
        with self._live.writing(current=False):
            try:
                self._database.copy_log()
            except StorageError as error:  # nothing was committed: not a turn that went wrong
                failure = error
        if failure is not None:
            raise failure

    def _run(self) -> None:
        with self._busy:
            if self._log_is_long():
                self._copy_log()
            if self._standing.unsaved:
                self._save_uses()
            with self._live.reading() as index:
                reason = self._reason_to_rebuild(index)
            if reason:
                head = self._head
                try:
                    self._rebuild(reason, lambda: self.keeper.stopping or self._head is not head)
                except building.GivenUpError:  # who changed the head has woken the keeper again
                    return
            with self._live.reading() as index:
                due = bool(reason) or self._snapshot_due(index)
            if due:
                self._write_snapshot_or_wait()

    def _snapshot_due(self, index: Index) -> bool:
        enough = max(_BEHIND_AT_LEAST, len(index) // 10)
        return self._live.behind >= max(enough, self._not_before)

    def _write_snapshot_or_wait(self) -> None:
        """Write it, or say once why not and leave it for a while: a full disk stays full."""
        try:
            self._write_snapshot()
        except StorageError as error:
            self._not_before = self._live.behind + _BEHIND_AT_CLOSE
            self._no_snapshot = (
                f"no new snapshot of the index; entries are safe, and the next open takes longer:"
                f" {error}"
            )
            raise StorageError(self._no_snapshot) from error

    def _reason_to_rebuild(self, index: Index) -> str:
        if not _same_head(index.head, self._head):
            return f"head {name_of(self._head)} instead of {name_of(index.head)}"
        return building.outgrown(index, self._options)

    def _rebuild(self, reason: str, give_up: building.GiveUp) -> None:
        _log.info("building the index anew: %s", reason)
        head = self._head
        with self._live.reading() as index:
            wanted = building.choose(self._options, len(index), index.width)
            only_dead = index.kind is wanted is IndexKind.EXACT and _same_head(index.head, head)
        if only_dead:  # then all that is needed is in RAM
            with self._live.writing() as index:
                self._live.replace(building.without_dead_rows(index))
            return
        removed = self._removed()
        built = building.build(
            self._database, index.dim, index.similarity, self._options, give_up=give_up, head=head
        )
        self._catch_up(built, removed)
        with self._live.writing():
            building.catch_up(built, self._database, removed=self._removed() != removed)
            self._live.replace(built)

    def _catch_up(self, built: Index, removed: int) -> None:
        """Add what was committed meanwhile, until so little is left that the writer may wait.

        Args:
            built: Is not in use yet.
            removed: Entries that had ever been removed when it was begun.
        """
        while True:
            before = built.columns.rows
            building.catch_up(built, self._database, removed=self._removed() != removed)
            if built.columns.rows - before <= _CAUGHT_UP:
                return

    def _removed(self) -> int:
        """Return how many entries were ever removed."""
        with self._database.reading() as connection:
            return counters.read(connection, counters.REMOVED)

    def _write_snapshot(self) -> None:
        mark = secrets.randbits(62)
        with self._live.writing() as index:
            self._live.settle()
            behind = self._live.behind
            with self._database.writing() as connection:
                removed = counters.read(connection, counters.REMOVED)
                # Both, because until the new one has its name the old one is the one on disk.
                counters.put(connection, counters.SNAPSHOT_BEFORE, self._live.mark)
                counters.put(connection, counters.SNAPSHOT, mark)
            frozen = snapshot.Frozen(index, self._live.sequence, removed, mark, self._fingerprint)
        frozen.write(self._directory)
        with self._live.writing():
            self._live.behind -= behind
            self._live.mark = mark
        self._no_snapshot, self._not_before = "", 0

    def _save_uses(self) -> None:
        uses = self._standing.unsaved_uses()
        if uses:
            try:
                with self._live.writing(), self._database.writing() as connection:
                    store.add_uses(connection, uses)
            except StorageError:
                self._standing.not_saved(uses)
                raise


def _same_head(one: Head | None, other: Head | None) -> bool:
    """Return whether two heads compute the same."""
    return (one and one.digest) == (other and other.digest)
