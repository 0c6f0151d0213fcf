"""The index in use: who may read it, who may change it, and which commit it shows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import counters
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.index import Addition, Index
from vla_retrieval.memory.opening import Opened
from vla_retrieval.memory.sharing import SharedLock

_CLOSED = "this memory was closed"
_MOST_WAITING = 2048
"""Entries that wait to be put into the index: 8 MB, and some 15 ms for who needs it."""


class LiveIndex:
    """Lends the index to readers, and to one writer at a time.

    What a commit added is noted, and put into the index when somebody needs it: many entries at
    once take a fifth of the time that they take one by one, and the writer does not wait for
    readers. Who reads after a commit sees all of it.

    Args:
        directory: Of the memory, for messages.
        database: That the index shows.
        opened: What it starts with.

    Attributes:
        sequence: The last commit that readers see; for the writer.
        behind: Changed entries that the snapshot does not have; for the writer.
        mark: Of the snapshot on disk, or 0; for the writer.
        changes: Entries that were added or removed since it was opened.
        source: Where the index came from when the memory was opened.
    """

    def __init__(self, directory: Path, database: Database, opened: Opened) -> None:
        """Start with an index."""
        self._directory = directory
        self._database = database
        self._index = opened.index
        self.sequence = opened.sequence
        self.behind = opened.behind
        self.mark = opened.mark
        self.changes = 0
        self.source = opened.source
        # Of commits, in their order; the writer appends while it has its turn, and whoever holds
        # _state alone takes from it. Both are single steps of the interpreter.
        self._waiting: deque[Addition] = deque()
        self._settled_at = 0  # changes, at which nothing waited
        # Held by the one writer over its commit and its change of the index, so that both see
        # the changes in the same order. Taken before _state.
        self._writing = threading.Lock()
        # Protects _index and _unusable: shared while they are read, alone while they change.
        self._state = SharedLock()
        self._unusable = ""

    def reading(self) -> AbstractContextManager[Index]:
        """Lend the index: it holds all that is committed by now, and stays so in the block.

        Raises:
            StorageError: If the memory was closed, or its index is behind.
        """
        return _Reading(self)

    def borrow(self) -> Index:
        """Begin ``reading``; ``give_back`` has to follow unless this raises."""
        if self._waiting:
            self._catch_up()
        self._state.acquire_shared()
        if self._unusable:
            self._state.release_shared()
            self._check_usable()
        return self._index

    def give_back(self) -> None:
        """End what ``borrow`` began."""
        self._state.release_shared()

    def glance(self) -> Index:
        """Return the index without waiting, also amid a change: for its sizes and kind alone.

        Raises:
            StorageError: If the memory was closed, or its index is behind.
        """
        self._check_usable()
        return self._index

    def writing(self, *, current: bool = True) -> AbstractContextManager[Index]:
        """Take a turn as the writer: commit, then repeat that with ``changing`` or ``added``.

        Should it be cut off between the two, by want of RAM or by Ctrl-C, the index is behind
        for good and perhaps torn: then it is not searched again.

        Args:
            current: Whether the index has to hold all that is committed.

        Raises:
            StorageError: If the memory was closed, or its index is behind.
        """
        return _Writing(self, current=current)

    def begin_writing(self, *, current: bool) -> Index:
        """Begin a turn of ``writing``; ``end_writing`` has to follow unless this raises."""
        self._writing.acquire()
        try:
            if current and self._waiting:
                self._catch_up()
            elif current:  # a reader may have taken what waited, and be putting it into the index
                with self._state.shared():
                    pass
            self._check_usable()  # who caught up meanwhile may have failed
            return self._index
        except BaseException:
            self._writing.release()
            raise

    def end_writing(self, error: BaseException | None) -> None:
        """End a turn, with what its block raised."""
        try:
            if error is not None and self.is_behind():
                with self._state.alone():
                    self._unusable = f"its index could not follow the database ({error!r})"
                raise StorageError(
                    f"{self._directory}: the change is stored, but {self._unusable}."
                    " Close the memory and open it again."
                ) from error
        finally:
            self._writing.release()

    @contextmanager
    def changing(self, sequence: int, changes: int) -> Iterator[Index]:
        """Keep readers away while the writer, with ``current``, repeats its commit in the index.

        Args:
            sequence: Of the commit.
            changes: Entries that it added or removed.
        """
        with self._state.alone():
            yield self._index
            self._count(sequence, changes)
            self._settled_at = self.changes  # nothing waits: these are in it, as are those before

    def added(self, sequence: int, addition: Addition) -> None:
        """Note what the writer's commit added.

        Args:
            sequence: Of the commit.
            addition: Is not changed later.
        """
        self._waiting.append(addition)  # from here on readers see it
        self._count(sequence, len(addition.entry_ids))
        if self.changes >= self._settled_at + _MOST_WAITING:
            self._catch_up()

    @property
    def waiting(self) -> int:
        """How many entries, at most, wait to be put into the index."""
        return self.changes - self._settled_at

    @property
    def usable(self) -> bool:
        """Whether it is lent at all."""
        return not self._unusable

    def settle(self) -> None:
        """Give each row of the index its code; for the writer."""
        with self._state.alone():
            self._index.settle()

    def replace(self, index: Index) -> None:
        """Use another index, which shows the same commit; for the writer, with ``current``."""
        with self._state.alone():
            self._index = index

    def close(self) -> bool:
        """Wait for readers and the writer, and lend no more. Return whether it was open."""
        with self._writing, self._state.alone():
            was_open = self._unusable != _CLOSED
            self._unusable = _CLOSED
            return was_open

    def _count(self, sequence: int, changes: int) -> None:
        self.sequence = sequence
        self.behind += changes
        self.changes += changes

    def _catch_up(self) -> None:
        """Put into the index what waits for that.

        Raises:
            StorageError: If it is cut off, by want of RAM or by Ctrl-C: then the index is perhaps
                torn, and not searched again. The entries are in the database.
        """
        with self._state.alone():
            if self._unusable:  # who asked is told so next
                return
            try:
                self._settled_at = self.changes
                parts = []
                while self._waiting:
                    parts.append(self._waiting.popleft())
                if parts:  # else somebody else did it
                    self._index.add(Addition.joined(parts))
            except BaseException as error:
                self._unusable = f"its index could not follow the database ({error!r})"
                raise StorageError(
                    f"{self._directory}: entries are stored, but {self._unusable}."
                    " Close the memory and open it again."
                ) from error

    def is_behind(self) -> bool:
        """Return whether the database is ahead of the index, or may be for all one can tell."""
        try:
            with self._database.reading() as connection:
                return counters.sequence(connection) != self.sequence
        except (StorageError, MemoryError):
            return True

    def _check_usable(self) -> None:
        if self._unusable:
            raise StorageError(f"{self._directory}: {self._unusable}. Open the memory again.")


class _Reading:
    """What ``LiveIndex.reading`` returns. A class: a generator costs each search a microsecond."""

    __slots__ = ("_live",)

    def __init__(self, live: LiveIndex) -> None:
        self._live = live

    def __enter__(self) -> Index:
        return self._live.borrow()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._live.give_back()


class _Writing:
    """What ``LiveIndex.writing`` returns; a class for the same reason."""

    __slots__ = ("_current", "_live")

    def __init__(self, live: LiveIndex, *, current: bool) -> None:
        self._live = live
        self._current = current

    def __enter__(self) -> Index:
        return self._live.begin_writing(current=self._current)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._live.end_writing(error)
