"""The index in use: who may read it, who may change it, and which commit it shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import counters
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.opening import Opened
from vla_retrieval.memory.sharing import SharedLock

_CLOSED = "this memory was closed"


class LiveIndex:
    """Lends the index to readers, and to one writer at a time.

    Args:
        directory: Of the memory, for messages.
        database: That the index shows.
        opened: What it starts with.

    Attributes:
        sequence: The last commit that the index shows; for the writer.
        behind: Changed entries that the snapshot does not have; for the writer.
        mark: Of the snapshot on disk, or 0; for the writer.
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
        self.source = opened.source
        # Held by the one writer over its commit and its change of the index, so that both see
        # the changes in the same order. Taken before _state.
        self._writing = threading.Lock()
        # Protects _index and _unusable: shared while they are read, alone while they change.
        self._state = SharedLock()
        self._unusable = ""

    @contextmanager
    def reading(self) -> Iterator[Index]:
        """Lend the index; it does not change in the block.

        Raises:
            StorageError: If the memory was closed, or its index is behind.
        """
        with self._state.shared():
            self._check_usable()
            yield self._index

    @contextmanager
    def writing(self) -> Iterator[Index]:
        """Take a turn as the writer: commit a change, then repeat it inside ``changing``.

        Should it be cut off between the two, by want of RAM or by Ctrl-C, the index is behind
        for good and perhaps torn: then it is not searched again.

        Raises:
            StorageError: If the memory was closed, or its index is behind.
        """
        with self._writing:
            self._check_usable()
            try:
                yield self._index
            except BaseException as error:
                if self._committed_more():
                    with self._state.alone():
                        self._unusable = f"its index could not follow the database ({error!r})"
                    raise StorageError(
                        f"{self._directory}: the change is stored, but {self._unusable}."
                        " Close the memory and open it again."
                    ) from error
                raise

    @contextmanager
    def changing(self, sequence: int, changes: int) -> Iterator[Index]:
        """Keep readers away while the writer repeats its commit in the index.

        Args:
            sequence: Of the commit.
            changes: Entries that it added or removed.
        """
        with self._state.alone():
            yield self._index
            self.sequence = sequence
            self.behind += changes

    @property
    def usable(self) -> bool:
        """Whether it is lent at all."""
        return not self._unusable

    def replace(self, index: Index) -> None:
        """Use another index, which shows the same commit; for the writer."""
        with self._state.alone():
            self._index = index

    def close(self) -> bool:
        """Wait for readers and the writer, and lend no more. Return whether it was open."""
        with self._writing, self._state.alone():
            was_open = self._unusable != _CLOSED
            self._unusable = _CLOSED
            return was_open

    def _committed_more(self) -> bool:
        """Return whether the database is ahead of the index, or may be for all one can tell."""
        try:
            with self._database.reading() as connection:
                return counters.read(connection, counters.SEQUENCE) != self.sequence
        except (StorageError, MemoryError):
            return True

    def _check_usable(self) -> None:
        if self._unusable:
            raise StorageError(f"{self._directory}: {self._unusable}. Open the memory again.")
