"""The door to the memory."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from vla_retrieval import ranking
from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.checks import (
    check_embeddings,
    check_entries,
    check_filter,
    check_probes,
)
from vla_retrieval.memory.database import DATABASE_NAME, Database
from vla_retrieval.memory.directory import prepare_directory
from vla_retrieval.memory.filters import eligible_rows
from vla_retrieval.memory.index import ExactIndex
from vla_retrieval.memory.lock import DirectoryLock
from vla_retrieval.memory.results import MemoryStats, SearchResult
from vla_retrieval.memory.sharing import SharedLock
from vla_retrieval.types import (
    Candidate,
    Embeddings,
    Entry,
    Filter,
    Fingerprint,
    NewEntry,
    Probe,
    Similarity,
)

_CLOSED = "this memory was closed"


class Memory:
    """Durable entries in one directory, and the search over them.

    Every method may be called from any thread. Writers take turns; readers run beside them and
    beside each other, and wait for a writer only while it changes the index in RAM, never
    while it waits for the disk. A search sees all of an ``add`` or ``remove``, or nothing.

    Made by ``Memory.open``.
    """

    def __init__(
        self,
        directory: Path,
        fingerprint: Fingerprint,
        similarity: Similarity,
        lock: DirectoryLock,
        database: Database,
        index: ExactIndex,
    ) -> None:
        """Use ``Memory.open``."""
        self._directory = directory
        self._fingerprint = fingerprint
        self._similarity = similarity
        self._directory_lock = lock
        self._database = database
        self._index = index
        # Held by the one writer over its commit and its change of the index, so that both see
        # the changes in the same order. Taken before _state.
        self._writing = threading.Lock()
        # Protects _index and _unusable: shared while they are read, alone while they change.
        self._state = SharedLock()
        self._unusable = ""

    @classmethod
    def open(
        cls,
        directory: Path,
        fingerprint: Fingerprint | None,
        similarity: Similarity = Similarity.COSINE,
        *,
        durable: bool = True,
        create: bool = True,
    ) -> Memory:
        """Open a memory, or start an empty one.

        The index is rebuilt from the database each time, and the checksum of every embedding
        is compared on the way.

        Args:
            directory: Where it is kept. It may not exist yet.
            fingerprint: Of the encoder that makes its embeddings; None takes what is stored.
            similarity: How embeddings are compared. It is not stored: the same memory may be
                opened with another one later.
            durable: Whether an acknowledged entry survives power loss, at the price of an fsync
                per commit. It survives the death of the process either way.
            create: Whether to start an empty memory where there is none.

        Raises:
            MemoryLockedError: If another process has it open, or this one already.
            MemoryMismatchError: If it was made with another encoder.
            MemoryFormatError: If the directory holds something else, or a damaged memory, or
                none and none is to be created.
            StorageError: If it cannot be read or written.
        """
        directory = Path(directory)
        create = create and fingerprint is not None
        prepare_directory(directory, create=create, durable=durable)
        with ExitStack() as undo:
            lock = DirectoryLock(directory)
            undo.callback(lock.release)
            database = Database(directory / DATABASE_NAME, durable=durable)
            undo.callback(database.close)
            settled = database.settle_format(fingerprint, create=create)
            index = ExactIndex(settled.dim, similarity)
            with database.reading() as connection:
                for part in store.read_all_embeddings(connection, settled.dim, database.path):
                    index.add(part.entry_ids, part.scenes, part.instructions)
            undo.pop_all()
        return cls(directory, settled, similarity, lock, database, index)

    def add(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> list[int]:
        """Store entries: all of them, committed when this returns, or none.

        Args:
            entries: What to store.
            scenes: Their scene embeddings, shape ``(len(entries), dim)``, as the encoder made
                them; stored unchanged.
            instructions: Their instruction embeddings, in the same shape.

        Returns:
            Their new ids, ascending from 1 on, never given out before.

        Raises:
            InvalidInputError: If embeddings or entries are out of range.
            StorageError: If the disk refuses, for example because it is full.
        """
        shape = (len(entries), self._fingerprint.dim)
        check_embeddings("scenes", scenes, shape, self._fingerprint)
        check_embeddings("instructions", instructions, shape, self._fingerprint)
        check_entries(entries)
        if not entries:
            return []
        with self._turn_to_write():
            with self._database.writing() as connection:
                entry_ids = store.insert(connection, entries, scenes, instructions)
            with self._state.alone():
                self._index.add(np.array(entry_ids, dtype=np.int64), scenes, instructions)
        return entry_ids

    def remove(self, entry_ids: Sequence[int]) -> None:
        """Forget entries, with their embeddings and thumbnails: all of them or none.

        Raises:
            EntryNotFoundError: If an id is unknown; it names all that are.
            StorageError: If the disk refuses.
        """
        with self._turn_to_write():
            with self._database.writing() as connection:
                store.delete(connection, entry_ids)
            with self._state.alone():
                self._index.remove(np.array(entry_ids, dtype=np.int64))

    def get(self, entry_id: int, *, thumbnail: bool = False) -> Entry:
        """Return an entry, with its thumbnail if asked for, else with an empty one.

        Raises:
            EntryNotFoundError: If the id is unknown.
            StorageError: If it cannot be read.
        """
        return self.get_many([entry_id], thumbnails=thumbnail)[0]

    def get_many(self, entry_ids: Sequence[int], *, thumbnails: bool = False) -> list[Entry]:
        """Return entries in the order of their ids.

        An entry that a search found may have been removed since; then this raises, and a new
        search does not find it.

        Raises:
            EntryNotFoundError: If an id is unknown; it names all that are.
            StorageError: If they cannot be read.
        """
        with self._state.shared():
            self._check_usable()
            with self._database.reading() as connection:
                return store.read(connection, entry_ids, thumbnails=thumbnails)

    def embeddings(self, entry_id: int) -> tuple[Embeddings, Embeddings]:
        """Return an entry's scene and instruction embedding as they were given to ``add``.

        Returns:
            Two arrays of shape ``(dim,)``.

        Raises:
            EntryNotFoundError: If the id is unknown.
            StorageError: If they cannot be read.
        """
        with self._state.shared():
            self._check_usable()
            with self._database.reading() as connection:
                return store.read_embeddings(
                    connection, entry_id, self._fingerprint.dim, self._database.path
                )

    def search(
        self,
        probes: Sequence[Probe],
        k: int,
        *,
        filter: Filter = Filter(),  # noqa: B008  (immutable)
        min_score: float = -math.inf,
    ) -> SearchResult:
        """Find the entries that fit best, exactly.

        The score is the sum over the probes of weight times similarity. A candidate's
        ``scene_score`` is the similarity with its scene if one probe asks for scenes, the
        weighted sum if several do, and NaN if none does; likewise ``instruction_score``.
        Scores are computed in float64 and do not depend on what else is stored.

        Args:
            probes: What to compare with, at least one.
            k: Most candidates to return, from 1 on.
            filter: Applied before the search, so that ``min(k, eligible_size)`` come back.
            min_score: Candidates with a lower score are left out.

        Raises:
            InvalidInputError: If an argument is out of its range.
            StorageError: If the filter cannot be read from the database.
        """
        check_probes(probes, self._fingerprint)
        check_filter(filter)
        if k < 1:
            raise InvalidInputError("k", "a whole number from 1 on", str(k))
        with self._state.shared():
            self._check_usable()
            started = time.perf_counter()
            eligible = None
            if not filter.passes_all:
                with self._database.reading() as connection:
                    eligible = eligible_rows(connection, filter, self._index.entry_ids)
            filtered = time.perf_counter()
            found = self._index.search(probes, k, eligible)
            memory_size = len(self._index)
        best = [
            Candidate(
                int(found.entry_ids[i]), float(found.scores[i]),
                float(found.scene_scores[i]), float(found.instruction_scores[i]),
            )
            for i in ranking.order(found.scores, found.entry_ids, k, min_score)
        ]  # fmt: skip
        eligible_size = memory_size if eligible is None else len(eligible)
        ranked = time.perf_counter()
        return SearchResult(
            tuple(best), memory_size, eligible_size, filtered - started, ranked - filtered
        )

    def stats(self) -> MemoryStats:
        """Return what the memory holds.

        Raises:
            StorageError: If it cannot be read.
        """
        with self._state.shared():
            self._check_usable()
            with self._database.reading() as connection:
                count, oldest, newest = store.count_and_stamps(connection)
                size_bytes = self._database.size_bytes()
        return MemoryStats(
            count, size_bytes, oldest, newest, self._similarity, self._fingerprint, self._directory
        )

    def close(self) -> None:
        """Wait for readers and the writer, then give the directory free. Safe to call twice."""
        with self._writing, self._state.alone():
            if self._unusable != _CLOSED:
                self._unusable = _CLOSED
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

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """Let one writer at a time commit a change and repeat it in the index.

        Should it be cut off between the two, by want of RAM or by Ctrl-C, the index is behind
        for good and perhaps torn: then it is not searched again.
        """
        with self._writing:
            self._check_usable()
            try:
                yield
            except BaseException as error:
                if self._index_is_behind():
                    with self._state.alone():
                        self._unusable = f"its index could not follow the database ({error!r})"
                    raise StorageError(
                        f"{self._directory}: the change is stored, but {self._unusable}."
                        " Close the memory and open it again."
                    ) from error
                raise

    def _index_is_behind(self) -> bool:
        """Return whether the last change, which adds or removes entries, is in one place only."""
        with self._database.reading() as connection:
            stored, _, _ = store.count_and_stamps(connection)
        return stored != len(self._index)

    def _check_usable(self) -> None:
        if self._unusable:
            raise StorageError(f"{self._directory}: {self._unusable}. Open the memory again.")
