"""The reading half of a memory: searching it, and reading what it holds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.checks import check_filter, check_probes
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.eviction import Standing
from vla_retrieval.memory.live import LiveIndex
from vla_retrieval.memory.reading import ranked
from vla_retrieval.memory.recent import RecentEntries
from vla_retrieval.memory.results import SearchResult
from vla_retrieval.projection import Head, projected_fingerprint
from vla_retrieval.types import (
    EVERYTHING,
    Embeddings,
    Entry,
    Filter,
    Fingerprint,
    Modality,
    Probe,
    Similarity,
)


class Readable:
    """What ``Memory`` can be asked; nothing here changes an entry.

    Args:
        fingerprint: Of the encoder that made its embeddings.
        database: Its entries.
        live: Its index.
        standing: Counts what is used.
    """

    def __init__(
        self, fingerprint: Fingerprint, database: Database, live: LiveIndex, standing: Standing
    ) -> None:
        """Use ``Memory.open``."""
        self._fingerprint = fingerprint
        self._database = database
        self._live = live
        self._standing = standing
        self._recent = RecentEntries()

    def note_use(self, entry_ids: Sequence[int]) -> None:
        """Count that entries were matches, for evicting the least used.

        Counts reach the disk now and then and when the memory is closed; a killed process takes
        the last ones with it.
        """
        with self._live.reading() as index:
            rows = index.columns.rows_of(np.array(entry_ids, dtype=np.int64))
            self._standing.use(index.columns.entry_ids[rows].tolist())

    def get(self, entry_id: int, *, thumbnail: bool = False) -> Entry:
        """Return an entry, with its thumbnail if asked for, else with an empty one.

        Raises:
            EntryNotFoundError: If the id is unknown.
            MemoryFormatError: If it differs from its checksum.
            StorageError: If it cannot be read.
        """
        return self._read([entry_id], thumbnail, "entry_id")[0]

    def get_many(self, entry_ids: Sequence[int], *, thumbnails: bool = False) -> list[Entry]:
        """Return entries in the order of their ids.

        An entry that a search found may have been removed since; then this raises, and a new
        search does not find it. Those that were asked for lately come from RAM, and are shared
        with others who ask: nobody may change what is in them.

        Raises:
            EntryNotFoundError: If an id is unknown; it names all that are.
            MemoryFormatError: If one differs from its checksum.
            StorageError: If they cannot be read.
        """
        if thumbnails:
            return self._read(entry_ids, thumbnails, "entry_ids")
        with self._live.reading():  # a memory that was closed has none
            found = self._recent.find(entry_ids)
        if found is None:
            changes = self._recent.changes
            found = self._read(entry_ids, thumbnails, "entry_ids")
            self._recent.keep(found, changes)
        return found

    def _read(self, entry_ids: Sequence[int], thumbnails: bool, field: str) -> list[Entry]:
        with self._live.reading(), self._database.reading() as connection:
            path = self._database.path
            return store.read(connection, entry_ids, thumbnails=thumbnails, path=path, field=field)

    def shows_all_commits(self) -> bool:
        """Return whether the index has all that is committed, and no writer is between the two."""
        return not self._live.is_behind()

    def check_usable(self) -> None:
        """Check that it can be searched and written, without waiting for readers or a writer.

        What was added and waits for the index stays so; where the index then cannot follow, the
        next search says so, and this from then on.

        Raises:
            StorageError: If the memory was closed, or its index could not follow the database.
        """
        self._live.glance()

    def entry_ids(self) -> list[int]:
        """Return the id of every entry, ascending."""
        with self._live.reading() as index:
            ids: list[int] = index.columns.entry_ids[index.columns.alive].tolist()
            return ids

    def embeddings(self, entry_id: int) -> tuple[Embeddings, Embeddings]:
        """Return an entry's scene and instruction embedding as they were given to ``add``.

        Returns:
            Two arrays of shape ``(dim,)``.

        Raises:
            EntryNotFoundError: If the id is unknown.
            StorageError: If they cannot be read.
        """
        scenes, instructions = (self.embeddings_of([entry_id], m) for m in Modality)
        return scenes[0], instructions[0]

    def embeddings_of(self, entry_ids: Sequence[int], modality: Modality) -> Embeddings:
        """Return one half of entries' embeddings as they were given to ``add``.

        Args:
            entry_ids: In the order wanted.
            modality: Which half.

        Returns:
            Shape ``(len(entry_ids), dim)``.

        Raises:
            EntryNotFoundError: If an id is unknown; it names all that are.
            StorageError: If they cannot be read.
        """
        with self._live.reading() as index, self._database.reading() as connection:
            path = self._database.path
            found, vectors = store.read_embeddings(connection, entry_ids, modality, index.dim, path)
        store.check_found(entry_ids, found.tolist())
        wanted = np.array([int(i) for i in entry_ids], dtype=np.int64)
        ordered: Embeddings = vectors[np.searchsorted(found, wanted)]
        return ordered

    def vectors_of(self, entry_ids: Sequence[int], modality: Modality) -> Embeddings:
        """Return one half of entries as it is compared: projected by the head in use.

        Args and errors are those of ``embeddings_of``.

        Returns:
            Shape ``(len(entry_ids), compared.dim)``; of unit length for cosine.
        """
        embeddings = self.embeddings_of(entry_ids, modality)
        with self._live.reading() as index:
            return index.compared(embeddings, modality)

    def search(
        self,
        probes: Sequence[Probe],
        k: int,
        *,
        filter: Filter = EVERYTHING,
        min_score: float = -math.inf,
    ) -> SearchResult:
        """Find the entries that fit best.

        The score is the sum over the probes of weight times similarity. A candidate's
        ``scene_score`` is the similarity with its scene if one probe asks for scenes, the
        weighted sum if several do, and NaN if none does; likewise ``instruction_score``.
        Scores are computed in float64 and do not depend on what else is stored. An exact index
        finds the best; an approximate one may miss some, and ``SearchResult.exact`` says so.

        Args:
            probes: What to compare with, at least one.
            k: Most candidates to return, from 1 on.
            filter: Applied before the search, so that ``min(k, eligible_size)`` come back.
            min_score: Candidates with a lower score are left out.

        Raises:
            InvalidInputError: If an argument is out of its range, or a probe does not say what
                it was made from and the memory has a head.
            StorageError: If embeddings cannot be read from the database.
        """
        check_probes(probes, self._fingerprint)
        check_filter(filter)
        if k < 1:
            raise InvalidInputError("k", "a whole number from 1 on", str(k))
        with self._live.reading() as index:
            started = time.perf_counter()
            mask = index.columns.passing(filter)
            memory_size = len(index)
            eligible_size = memory_size if mask is None else int(np.count_nonzero(mask))
            filtered = time.perf_counter()
            best, exact = ranked(index, self._database, probes, k, mask, min_score)
        searched = time.perf_counter()
        return SearchResult(
            tuple(best), memory_size, eligible_size, exact, filtered - started, searched - filtered,
            index.head,
        )  # fmt: skip

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the encoder that made its embeddings."""
        return self._fingerprint

    @property
    def compared(self) -> Fingerprint:
        """Of what is compared: with the digest of the head in use, where there is one."""
        return projected_fingerprint(self._fingerprint, self.head)

    @property
    def head(self) -> Head | None:
        """What projects embeddings before they are compared; after a switch, the new one."""
        with self._live.reading() as index:
            return index.head

    @property
    def similarity(self) -> Similarity:
        """How it was opened to be searched."""
        with self._live.reading() as index:
            return index.similarity
