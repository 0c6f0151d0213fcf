"""The SQLite file: how it is opened, read and committed to."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from vla_retrieval.errors import MemoryFormatError, StorageError
from vla_retrieval.memory import schema
from vla_retrieval.memory.failures import raise_translated, storage_errors
from vla_retrieval.memory.names import LOCK_NAME, LOG_NAME, SNAPSHOT_NAME
from vla_retrieval.types import Fingerprint

_log = logging.getLogger(__name__)

_OLDEST_SQLITE = (3, 37, 0)  # STRICT tables
# SQLite's "unix", for one process: what its connections share about the log is in RAM and not in a
# mapped file. Where a file system turns read-only under one, as ext4 does after an error, the next
# write to it is a SIGBUS, which ends the process; and where one hangs, queries hang with it.
_ONE_PROCESS = "unix-excl"
_NO_LOCKS = "&vfs=unix-none"  # SQLite's own ones, which readers among themselves need not
_BUSY_TIMEOUT_SEC = 5.0  # a person's sqlite3 shell may hold the file as it is opened
_WRITE_AHEAD = "PRAGMA journal_mode = WAL"
_HEADER_BYTES = 100
_PAGES_IN_LOG = 16_000
"""64 MB, at which the writer copies the log into the database itself; see ``copy_log``."""

_WAL_BYTES_KEPT = 64 << 20  # the log shrinks back to this after a large transaction


class Database:
    """One writing connection and as many reading ones as there are readers at a time.

    Write-ahead logging lets readers go on, on the state before, while a commit waits for the
    disk. ``durable`` sets SQLite's ``synchronous``:

    - FULL: the log is fsynced in every commit, which protects an acknowledged entry from power
      loss; and at checkpoints as below.
    - NORMAL: the log is fsynced before a checkpoint copies it into the database and the
      database after, which protects the database from a mix of old and new. A commit survives
      the death of the process; power loss may take the last ones, each wholly.
    """

    def __init__(self, path: Path, *, durable: bool, read_only: bool = False) -> None:
        """Open the file, or make an empty one unless it is only to be read.

        Raises:
            StorageError: If it cannot be opened, or this SQLite is too old.
            MemoryFormatError: If it is not a SQLite database.
        """
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            wanted = ".".join(map(str, _OLDEST_SQLITE))
            raise StorageError(
                f"expected SQLite {wanted} or newer, got {sqlite3.sqlite_version}."
                " Use a Python that is built with a newer one."
            )
        self.path = path
        self._source = (
            _read_only_uri(path) if read_only else f"{path.absolute().as_uri()}?vfs={_ONE_PROCESS}"
        )
        self._exclusive = _NO_LOCKS in self._source
        self._read_only = read_only
        self._idle_readers: list[sqlite3.Connection] = []
        self._pool_lock = threading.Lock()  # protects _idle_readers
        self._descriptor: int | None = None  # see ``_own_descriptor``
        with storage_errors("open", path):
            self._writer = self._connect()
            try:
                self._writer.execute("PRAGMA schema_version")  # opens the file; connect does not
                if not read_only:
                    self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    self._writer.execute("PRAGMA foreign_keys = ON")
                    self._writer.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_IN_LOG}")
                    self._writer.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
            except BaseException:
                self._writer.close()
                raise

    def settle_format(self, given: Fingerprint | None, *, create: bool) -> Fingerprint:
        """Make the tables of a new database, or check those of an old one.

        Returns:
            The fingerprint that the database has now.

        Raises:
            MemoryFormatError: If it is not a memory, damaged, or new and not to be created.
            MemoryMismatchError: If it was made with another encoder than the given one.
        """
        with storage_errors("read", self.path):
            new = schema.is_new(self._writer)
            if new and (self.path.parent / SNAPSHOT_NAME).exists():
                raise MemoryFormatError(
                    f"{self.path} is damaged: expected its tables, got an empty database beside"
                    f" {SNAPSHOT_NAME}, which only one with entries has. Restore the directory from"
                    " a copy, or move it away to start empty."
                )
            if new and not (create and given):
                raise MemoryFormatError(
                    f"{self.path} holds no memory yet: expected its tables, got an empty database,"
                    " as a start that was killed leaves it. Start a node with this directory, which"
                    " makes them, or restore the directory from a copy."
                )
            if new and given:
                self._writer.execute(_WRITE_AHEAD)
                with self.writing() as connection:
                    schema.create(connection, given)
            if not self._read_only and schema.is_old(self._writer):
                self._upgrade()
            schema.check(self._writer, self.path)
            if not self._read_only:
                self._writer.execute(
                    _WRITE_AHEAD
                )  # not before: it writes, and the file may be foreign
            stored = schema.stored_fingerprint(self._writer, self.path, given)
        if given is not None:
            schema.check_fingerprint(stored, given, self.path.parent)
        if not self._read_only:  # not before: who is refused changes nothing
            self._complete(given)
        return stored

    def _complete(self, fingerprint: Fingerprint | None) -> None:
        """Write the format, and the fingerprint where it is damaged or has no checksum yet."""
        with storage_errors("read", self.path):
            whole = fingerprint is None or schema.is_whole(self._writer, fingerprint)
            before = schema.is_of_the_format_before(self._writer)
        if whole and not before:
            return
        with self.writing() as connection:
            schema.mark(connection)
            if fingerprint is not None:
                schema.write_fingerprint(connection, fingerprint)

    def _upgrade(self) -> None:
        _log.warning(
            "bringing %s to format %d, for which twice as much disk has to be free as it has bytes;"
            " `memory compact` frees it again", self.path, schema.FORMAT,
        )  # fmt: skip
        self._writer.execute(_WRITE_AHEAD)
        self._writer.execute("PRAGMA foreign_keys = OFF")  # not inside of a transaction
        try:
            with self.writing() as connection:
                schema.upgrade(connection)
        finally:
            self._writer.execute("PRAGMA foreign_keys = ON")
        with suppress(sqlite3.Error):  # all is in the log otherwise; the first add would copy it
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """Run a block as one transaction, committed at its end.

        One caller at a time. An exception in the block, or in the commit, undoes all of it.

        Raises:
            StorageError: If SQLite or the disk refuses.
        """
        return _Transaction(self._writer, self.path)

    def writing_once(self) -> AbstractContextManager[sqlite3.Connection]:
        """Run a block that writes with a single statement, which is a transaction of its own.

        As ``writing`` otherwise. Two statements less are a twentieth of the time of a small commit.

        Raises:
            StorageError: If SQLite or the disk refuses; then nothing was written.
        """
        return _Statement(self._writer, self.path)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees one committed state throughout the block.

        Raises:
            StorageError: If SQLite or the disk refuses.
        """
        with storage_errors("read", self.path), self._connection() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("ROLLBACK")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that nobody writes with; after an error it is not used again."""
        with self._pool_lock:
            connection = self._idle_readers.pop() if self._idle_readers else None
        connection = connection or self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._pool_lock:
            self._idle_readers.append(connection)

    @contextmanager
    def beside(self, other: Database, name: str) -> Iterator[None]:
        """Let the writing connection read another database, under a name.

        Args:
            other: Nobody writes to it meanwhile.
            name: Prefix of its tables in statements.

        Raises:
            StorageError: If it cannot be read.
        """
        with storage_errors("read", other.path):
            self._writer.execute(f"ATTACH DATABASE ? AS {name}", (other._source,))
        try:
            yield
        finally:
            with storage_errors("close", other.path):
                self._writer.execute(f"DETACH DATABASE {name}")

    def copy_log(self) -> None:
        """Copy what the log holds into the database, while readers and the writer go on.

        Who writes would otherwise do it at times, and wait for the disk much longer than for a
        commit. When all of it is copied, the log begins anew with the next commit, in the room
        that its file has: a commit that makes the file longer takes up to twice as long to reach
        the disk.

        Raises:
            StorageError: If SQLite or the disk refuses; then all is where it was.
        """
        with storage_errors("write to", self.path), self._connection() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def fold_log(self) -> None:
        """Put all that can be read of the log into the database, and leave no log; for the writer.

        Raises:
            StorageError: If SQLite or the disk refuses.
        """
        with storage_errors("write to", self.path):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def flush(self) -> None:
        """Wait until what the database's own file got is on the disk; nobody else waits.

        SQLite does it only once all of the log is copied, which beside a writer that never pauses
        is in that writer's turn.

        Raises:
            StorageError: If the disk refuses; all is in the log still.
        """
        with storage_errors("write to", self.path):
            os.fsync(self._own_descriptor())

    def header(self) -> bytes:
        """Return the header of the file: 100 bytes, in SQLite's format.

        Raises:
            StorageError: If it cannot be read.
        """
        with storage_errors("read", self.path):
            return os.pread(self._own_descriptor(), _HEADER_BYTES, 0)

    def _own_descriptor(self) -> int:
        """Return one that is closed after SQLite's own.

        A process that closes any descriptor of a file loses its locks on it (fcntl(2), "Record
        locks are automatically released").
        """
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def used_bytes(self, connection: sqlite3.Connection) -> int:
        """Return how much of the database is filled, in bytes; deleting makes room inside it."""
        pages, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def vacuum(self) -> None:
        """Write the database anew without free pages; needs as much free disk as it has bytes.

        Raises:
            StorageError: If SQLite or the disk refuses; then nothing has changed.
        """
        with storage_errors("compact", self.path):
            self._writer.execute("VACUUM")
        self.fold_log()

    def close(self) -> None:
        """Close all connections; the last one folds the log into the database."""
        with storage_errors("close", self.path):
            for connection in (*self._idle_readers, self._writer):
                connection.close()
            self._idle_readers.clear()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _connect(self) -> sqlite3.Connection:
        # Autocommit (isolation_level None): Python opens no transactions of its own.
        # A connection moves between threads but is used by one at a time.
        connection = sqlite3.connect(
            self._source, uri=True, timeout=_BUSY_TIMEOUT_SEC, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        if self._exclusive:  # what it knows of the log is in RAM then, and not in a file
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        return connection


class _Transaction:
    """What ``Database.writing`` returns.

    A class, because a generator costs each commit several microseconds. There are no savepoints in
    it: where one is rolled back after pages went to the log early, SQLite 3.40.1 writes a log that
    it does not read to its end after a kill (10 of 174 kills, none without savepoints).
    """

    __slots__ = ("_connection", "_path")

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        with storage_errors("write to", self._path):
            self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with storage_errors("write to", self._path):
            if error is None:
                try:
                    self._connection.execute("COMMIT")
                    return
                except BaseException:
                    self._undo()
                    raise
            self._undo()
        raise_translated(error, "write to", self._path)

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class _Statement:
    """What ``Database.writing_once`` returns; a class for the same reason."""

    __slots__ = ("_connection", "_path")

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if error is not None:
            raise_translated(error, "write to", self._path)


def _read_only_uri(path: Path) -> str:
    """Return how SQLite opens a file that it must not write.

    Even a reader makes the shared file that a log needs, and leaves it; on a full disk, or where
    nothing can be written, it cannot. It needs none, if it is told that nobody else writes: nobody
    can, or the lock of the directory, which a reader holds, keeps writers off.
    """
    log = path.with_name(LOG_NAME)
    alone = (path.parent / LOCK_NAME).exists() or not os.access(path.parent, os.W_OK)
    if not alone:
        how = ""
    elif log.exists() and log.stat().st_size:
        how = _NO_LOCKS
    else:
        how = "&immutable=1"
    return f"{path.absolute().as_uri()}?mode=ro{how}"
