"""The door to the memory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import building, calibration_store, counters, snapshot
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.bounds import make_room
from vla_retrieval.memory.checks import (
    check_embeddings,
    check_entries,
)
from vla_retrieval.memory.columns import facts_of
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.directory import prepare_directory, size_bytes
from vla_retrieval.memory.eviction import Standing
from vla_retrieval.memory.eviction_log import EvictionLog
from vla_retrieval.memory.index import Addition
from vla_retrieval.memory.live import LiveIndex
from vla_retrieval.memory.lock import DirectoryLock
from vla_retrieval.memory.maintenance import Maintenance
from vla_retrieval.memory.merging import sort_out
from vla_retrieval.memory.names import DATABASE_NAME
from vla_retrieval.memory.opening import Opened, open_index
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.memory.readable import Readable
from vla_retrieval.memory.reading import Neighbourhood
from vla_retrieval.memory.results import Added, MemoryStats
from vla_retrieval.memory.statistics import describe_index, ends
from vla_retrieval.memory.write_ahead import check_log
from vla_retrieval.projection import Head, check_head
from vla_retrieval.types import (
    Embeddings,
    Fingerprint,
    NewEntry,
    Similarity,
    check_member,
)


class Memory(Readable):
    """Durable entries in one directory, and the search over them.

    Every method may be called from any thread. Writers take turns; readers run beside them and
    beside each other, and wait for a writer only while it changes the index in RAM, never
    while it waits for the disk. A search sees all of an ``add`` or ``remove``, or nothing.
    A thread of the memory's own builds a better index and writes snapshots of it beside all that.

    Made by ``Memory.open``.
    """

    def __init__(
        self,
        directory: Path,
        fingerprint: Fingerprint,
        options: MemoryOptions,
        lock: DirectoryLock,
        database: Database,
        opened: Opened,
        standing: Standing,
        calibration: str | None,
        last_id: int,
        *,
        read_only: bool,
    ) -> None:
        """Use ``Memory.open``."""
        live = LiveIndex(directory, database, opened)
        super().__init__(fingerprint, database, live, standing)
        self._directory = directory
        self._options = options
        self._directory_lock = lock
        self._read_only = read_only
        self._evictions = EvictionLog(options.eviction)
        self._calibration = calibration
        self._last_id = last_id  # that was given out; for the writer
        # Held over closing: who calls it meanwhile must not take the database from its snapshot.
        self._closing = threading.Lock()
        self._maintenance: Maintenance | None = None
        if not read_only:
            self._maintenance = Maintenance(
                directory, database, live, standing, fingerprint, options
            )
            self._maintenance.after_change()

    @classmethod
    def open(
        cls,
        directory: Path,
        fingerprint: Fingerprint | None,
        similarity: Similarity = Similarity.COSINE,
        *,
        durable: bool = True,
        create: bool = True,
        read_only: bool = False,
        options: MemoryOptions = MemoryOptions(),  # noqa: B008  (immutable)
        head: Head | None = None,
    ) -> Memory:
        """Open a memory, or start an empty one.

        The index comes from its snapshot and is caught up with the database; where there is no
        sound snapshot it is built from the database. Every checksum is compared on the way.

        Args:
            directory: Where it is kept. It may not exist yet.
            fingerprint: Of the encoder that makes its embeddings; None takes what is stored.
            similarity: How embeddings are compared. It is not stored: the same memory may be
                opened with another one later.
            durable: Whether an acknowledged entry survives power loss, at the price of an fsync
                per commit. It survives the death of the process either way.
            create: Whether to start an empty memory where there is none.
            read_only: Whether it is only to be searched and read; then nothing is written to
                the directory, others may read it too, and nobody may write it meanwhile.
            options: How it is searched and bounded.
            head: Projects embeddings before they are compared, or None. What is stored are the
                encoder's own, so a memory may be opened with another head later.

        Raises:
            HeadMismatchError: If the head was made for another encoder.
            InvalidInputError: If ``similarity`` is none.
            MemoryLockedError: If another process has it open, or this one already.
            MemoryMismatchError: If it was made with another encoder.
            MemoryFormatError: If the directory holds something else, or a damaged memory, or
                none and none is to be created.
            StorageError: If it cannot be read or written.
        """
        check_member("similarity", similarity, Similarity)
        directory = Path(directory)
        create = create and fingerprint is not None and not read_only
        prepare_directory(directory, create=create, durable=durable)
        with ExitStack() as undo:
            lock = DirectoryLock(directory, shared=read_only)
            undo.callback(lock.release)
            check_log(directory, durable=durable)
            database = Database(directory / DATABASE_NAME, durable=durable, read_only=read_only)
            undo.callback(database.close)
            settled = database.settle_format(fingerprint, create=create)
            if not read_only:
                snapshot.remove_unfinished(directory)
            if head is not None:
                check_head(head, settled)
            opened = open_index(directory, database, settled, similarity, options, head)
            with database.reading() as connection:
                # Without bounds nobody goes, and whom to keep is not worth a look at all entries.
                pinned = store.pinned_ids(connection).tolist() if options.bounded else []
                standing = Standing(store.read_uses(connection), pinned)
                calibration = calibration_store.read_if_sound(connection, directory)
                last_id = counters.last_given_out(connection)
            if opened.last_id > last_id and not read_only:
                opened, last_id = _go_on_behind(database, opened, last_id)
            memory = cls(
                directory, settled, options, lock, database, opened, standing, calibration,
                last_id, read_only=read_only,
            )  # fmt: skip
            undo.pop_all()
        return memory

    def add(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> list[int]:
        """Store entries: all of them, committed when this returns, or none.

        ``add_with_report`` says more.

        Args:
            entries: What to store.
            scenes: Their scene embeddings, shape ``(len(entries), dim)``, as the encoder made
                them; stored unchanged.
            instructions: Their instruction embeddings, in the same shape.

        Returns:
            Their new ids, ascending from 1 on, never given out before. Where near-duplicates
            are merged, the id of the stored entry instead.

        Raises:
            InvalidInputError: If embeddings or entries are out of range.
            MemoryFullError: If a bound is reached and all that could go are pinned.
            StorageError: If the disk refuses, for example because it is full.
        """
        return list(self.add_with_report(entries, scenes, instructions).entry_ids)

    def overdue(self) -> str:
        """Return why ``add`` would wait for the index to be built anew, or nothing.

        That may take minutes. It is under way already, or begins with this call.

        Raises:
            StorageError: If the memory was closed, or cannot be written.
        """
        maintenance = self._writable_maintenance()
        reason = maintenance.overdue()
        if reason:
            maintenance.keeper.wake()
        return reason

    def add_with_report(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> Added:
        """Store entries as ``add`` does, and say which were merged and which others went."""
        shape = (len(entries), self._fingerprint.dim)
        check_embeddings("scenes", scenes, shape, self._fingerprint)
        check_embeddings("instructions", instructions, shape, self._fingerprint)
        check_entries(entries)
        if not entries:
            return Added((), (), ())
        self._writable_maintenance().before_adding()
        if self._options.merges or self._options.bounded:
            added = self._add_within_bounds(entries, scenes, instructions)
        else:
            added = self._add_all(entries, scenes, instructions)
        self._after_change()
        return added

    def _add_all(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> Added:
        """Store entries where nobody is merged or evicted, so that nobody looks at the index."""
        halves = scenes.copy(), instructions.copy()
        facts = [facts_of(entry) for entry in entries]
        once = store.in_one_statement(entries)
        with self._live.writing(current=False):
            ids = self._new_ids(len(entries))
            with self._database.writing_once() if once else self._database.writing() as connection:
                store.insert(connection, ids, entries, *halves)
            self._follow(entries, Addition(ids, facts, *halves), ())
        return Added(tuple(ids), (False,) * len(ids), ())

    def _add_within_bounds(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> Added:
        with self._live.writing() as index:
            around = Neighbourhood(index, self._database)
            sorted_out = sort_out(
                entries, scenes, instructions, self._options, around.neighbours, around.entries
            )
            kept, *halves = sorted_out.kept(entries, scenes, instructions)
            ids = self._new_ids(len(kept))
            report = sorted_out.report(ids)
            with self._recent.changing() as changed, self._database.writing() as connection:
                store.insert(connection, ids, kept, *halves)
                if not sorted_out.all_new:
                    _count_merged(connection, report)
                    changed.update(report.entry_ids)
                evictions = make_room(
                    connection, self._database, index, self._standing, self._options, len(ids)
                )
                evicted = [entry_id for went in evictions for entry_id in went.entry_ids]
                changed.update(evicted)
            self._follow(kept, Addition(ids, list(map(facts_of, kept)), *halves), evicted)
            self._evictions.note(evictions)
        return replace(report, evicted=tuple(evicted)) if evicted else report

    def _new_ids(self, count: int) -> range:
        """Return the next ids, in the writer's turn; they are given out once that is committed."""
        return range(self._last_id + 1, self._last_id + 1 + count)

    def _follow(
        self, entries: Sequence[NewEntry], addition: Addition, evicted: Sequence[int]
    ) -> None:
        """Let all else follow a commit, in the writer's turn."""
        ids = addition.entry_ids
        if ids:  # before all that may be cut off: an id is never given out twice
            self._last_id = ids[-1]
        sequence = self._live.sequence + len(ids) + len(evicted)
        if evicted:
            with self._live.changing(sequence, len(ids) + len(evicted)) as index:
                index.add(addition)
                index.remove(evicted)
            self._standing.forget(evicted)
        elif ids:
            self._live.added(sequence, addition)
        if any(entry.pinned for entry in entries):
            pinned = [i for i, entry in zip(ids, entries, strict=True) if entry.pinned]
            self._standing.pin(pinned, pinned=True)

    def remove(self, entry_ids: Sequence[int]) -> None:
        """Forget entries, with their embeddings and thumbnails: all of them or none.

        Raises:
            EntryNotFoundError: If an id is unknown; it names all that are.
            StorageError: If the disk refuses.
        """
        self._check_writable()
        with self._live.writing() as index:
            with self._recent.changing() as changed, self._database.writing() as connection:
                gone = store.delete(connection, entry_ids)
                counters.increase(connection, counters.REMOVED, gone)
                changed.update(map(int, entry_ids))
            with self._live.changing(self._live.sequence + gone, gone):
                index.remove(entry_ids)
            self._standing.forget(entry_ids)
        self._after_change()

    def pin(self, entry_ids: Sequence[int], *, pinned: bool = True) -> None:
        """Say that entries never go to make room, or that they may again.

        Raises:
            EntryNotFoundError: If an id is unknown; it names all that are.
            StorageError: If the disk refuses.
        """
        self._check_writable()
        with self._live.writing():
            with self._recent.changing() as changed, self._database.writing() as connection:
                store.pin(connection, entry_ids, pinned=pinned)
                changed.update(map(int, entry_ids))
            self._standing.pin(entry_ids, pinned=pinned)

    def use_head(self, head: Head | None) -> None:
        """Compare what another head makes of the embeddings from now on; None: themselves.

        Returns at once. The index is built anew in the background; until that is done, queries
        are answered with the old index and projected by the old head, and entries may come and
        go. ``stats().index`` says how far it is and ``wait_until_idle`` waits. A later call
        takes the place of one that is not done yet. In a memory that was opened to be read only,
        there is no background, and it is done when this returns.

        Raises:
            HeadMismatchError: If it was made for another encoder; the old one stays.
            StorageError: If the memory was closed, or cannot be read.
        """
        if head is not None:
            check_head(head, self._fingerprint)
        if self._read_only:
            with self._live.writing() as index:
                dim, similarity = index.dim, index.similarity
                built = building.build(self._database, dim, similarity, self._options, head=head)
                self._live.replace(built)
            return
        self._writable_maintenance().use_head(head)

    def calibration(self) -> str | None:
        """Return the text that ``set_calibration`` stored, from RAM, or None.

        A stored text that differs from its checksum counts as none, and the log says so.
        """
        return self._calibration

    def set_calibration(self, text: str | None) -> None:
        """Store what scores mean, as text, in place of what was stored; None leaves none.

        It is committed when this returns. It stays when entries come and go.

        Raises:
            StorageError: If the disk refuses; what was stored stays then.
        """
        self._check_writable()
        with self._live.writing():
            with self._database.writing() as connection:
                calibration_store.write(connection, text)
            self._calibration = text  # in the writer's turn: of two calls the last one counts

    def stats(self) -> MemoryStats:
        """Return what the memory holds.

        Raises:
            StorageError: If it cannot be read.
        """
        with self._live.reading() as index:
            maintenance = self._maintenance
            last_error = maintenance.last_error if maintenance else ""
            wanted = maintenance.head if maintenance else index.head
            of_index = describe_index(index, self._live, last_error, wanted)
            entries, stamps = len(index), ends(index)
            with self._database.reading() as connection:
                merged = counters.read(connection, counters.MERGED)
                evicted = counters.read(connection, counters.EVICTED)
                over_entries = counters.read(connection, counters.EVICTED_OVER_ENTRIES)
                over_bytes = counters.read(connection, counters.EVICTED_OVER_BYTES)
        return MemoryStats(
            entries, size_bytes(self._directory), *stamps, merged, evicted,
            index.similarity, self._fingerprint, self._directory, of_index,
            over_entries, over_bytes,
        )  # fmt: skip

    def wait_until_idle(self, timeout_sec: float | None = None) -> bool:
        """Wait until the index is as it should be and its snapshot is as fresh as it need be.

        Returns:
            Whether that was so within the time given.
        """
        return self._maintenance is None or self._maintenance.wait_until_idle(timeout_sec)

    def write_snapshot(self) -> None:
        """Write the index to disk now, so that the next open has nothing to catch up with.

        Raises:
            StorageError: If the disk refuses; the old snapshot stays.
        """
        self._writable_maintenance().write_snapshot()

    def compact(self) -> None:
        """Build the index anew, free the disk space of removed entries, write a snapshot.

        Queries go on meanwhile. Writers wait while the database is written anew, which needs
        as much free disk as it has bytes.

        Raises:
            StorageError: If the disk refuses; nothing is lost.
        """
        maintenance = self._writable_maintenance()
        maintenance.rebuild("it is to be compacted")
        with self._live.writing():
            self._database.vacuum()
        maintenance.write_snapshot()

    def close(self) -> None:
        """Wait for readers and the writer, then give the directory free. Safe to call twice."""
        with self._closing:
            maintenance, self._maintenance = self._maintenance, None
            try:
                if maintenance is not None:
                    maintenance.close()
            finally:
                if self._live.close():
                    self._evictions.tell()
                    try:
                        self._database.close()
                    finally:
                        self._directory_lock.release()

    def __enter__(self) -> Memory:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _after_change(self) -> None:
        maintenance = self._maintenance
        if maintenance is not None:
            maintenance.after_change()

    def _check_writable(self) -> None:
        if self._read_only:
            raise StorageError(f"{self._directory}: this memory was opened to be read only.")

    def _writable_maintenance(self) -> Maintenance:
        self._check_writable()
        if self._maintenance is None:
            raise StorageError(f"{self._directory}: this memory was closed.")
        return self._maintenance


def _count_merged(connection: sqlite3.Connection, report: Added) -> None:
    """Count each near-duplicate, on the entry that stands for it and in all."""
    for entry_id, merged in zip(report.entry_ids, report.merged, strict=True):
        if merged:
            store.count_merged(connection, entry_id)
    counters.increase(connection, counters.MERGED, sum(report.merged))


def _go_on_behind(database: Database, opened: Opened, last_id: int) -> tuple[Opened, int]:
    """Give out no id that a snapshot knows; return what was opened, and the last id.

    The database is an older copy than the snapshot, or has lost its log.
    """
    with database.writing() as connection:
        counters.put(connection, counters.GIVEN_OUT, opened.last_id)
    sequence = opened.sequence + opened.last_id - last_id
    return replace(opened, sequence=sequence), opened.last_id
