"""Searching an index and reading what lies behind it on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from vla_retrieval import ranking
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.columns import Mask, Rows
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.index import Index, Originals, Scores
from vla_retrieval.memory.merging import Neighbour, cosine
from vla_retrieval.types import Candidate, Embeddings, Entry, Filter, Modality, Probe


def ranked(
    index: Index,
    database: Database,
    probes: Sequence[Probe],
    k: int,
    mask: Mask | None,
    min_score: float,
) -> tuple[list[Candidate], bool]:
    """Return the k best rows that a mask lets pass, and whether they surely are.

    Raises:
        StorageError: If embeddings cannot be read from the database.
    """
    if index.whole:
        found = index.search(probes, k, mask, _not_needed)
    else:
        found = _search_with_originals(index, database, probes, k, mask)
    best = ranking.order(found.scores, found.entry_ids, k, min_score)
    columns = (array[best].tolist() for array in found[:-1])
    return [Candidate(*row) for row in zip(*columns, strict=True)], found.exact


def _search_with_originals(
    index: Index, database: Database, probes: Sequence[Probe], k: int, mask: Mask | None
) -> Scores:
    with _originals(index, database) as (originals, gone):
        found = index.search(probes, k, mask, originals)
        # The database may be ahead of the index: others take the place of what it has lost.
        while gone and len(found.entry_ids) < k:
            mask = index.columns.alive.copy() if mask is None else mask.copy()
            mask[gone] = False
            gone.clear()
            found = index.search(probes, k, mask, originals)
    return found


_MORE_WITH_HEAD = 8
"""Times as many neighbours are looked at where a head proposes them: it may draw many together."""


class Neighbourhood:
    """Finds what resembles an entry, for the writer.

    How much two entries resemble each other is the cosine of their embeddings as they were stored,
    whatever head is in use: what is stored must not depend on it. The index only proposes whom to
    compare, so with a head that moves two copies apart both may be kept.

    Args:
        index: As it is in the writer's turn.
        database: Behind it.
    """

    def __init__(self, index: Index, database: Database) -> None:
        """Look from the writer's turn."""
        self._index = index
        self._database = database

    def neighbours(
        self, scene: Embeddings, instruction: Embeddings, wanted: Filter, k: int
    ) -> list[Neighbour]:
        """Return the nearest of the entries that pass a filter; see ``merging.Neighbours``."""
        probes = [
            Probe(Modality.SCENE, scene, 0.5, Modality.SCENE),
            Probe(Modality.INSTRUCTION, instruction, 0.5, Modality.INSTRUCTION),
        ]
        mask = self._index.columns.passing(wanted)
        if self._index.head is not None:
            k *= _MORE_WITH_HEAD
        found, _ = ranked(self._index, self._database, probes, k, mask, -np.inf)
        ids = sorted(candidate.entry_id for candidate in found)
        scenes = self._embeddings(ids, Modality.SCENE)
        instructions = self._embeddings(ids, Modality.INSTRUCTION)
        return [
            Neighbour(entry_id, cosine(scene, s), cosine(instruction, i))
            for entry_id, s, i in zip(ids, scenes, instructions, strict=True)
        ]

    def entries(self, entry_ids: Sequence[int]) -> list[Entry]:
        """Return entries without thumbnails."""
        with self._database.reading() as connection:
            return store.read(connection, entry_ids, thumbnails=False, path=self._database.path)

    def redundancy(self, entry_id: int, without: Sequence[int]) -> float:
        """Return the mean cosine of both halves with the entry that is most alike."""
        halves = {m: self._embeddings([entry_id], m)[0] for m in Modality}
        others = Filter(exclude_ids=(entry_id, *without))
        near = self.neighbours(halves[Modality.SCENE], halves[Modality.INSTRUCTION], others, 1)
        return max(((n.scene + n.instruction) / 2 for n in near), default=-1.0)

    def _embeddings(self, entry_ids: Sequence[int], modality: Modality) -> Embeddings:
        path, dim = self._database.path, self._index.dim
        with self._database.reading() as connection:
            return store.read_embeddings(connection, entry_ids, modality, dim, path)[1]


@contextmanager
def _originals(index: Index, database: Database) -> Iterator[tuple[Originals, list[int]]]:
    """Lend a reader of stored embeddings, all of one committed state, and the rows it misses."""
    gone: list[int] = []
    with database.reading() as connection:

        def read(modality: Modality, rows: Rows) -> tuple[Rows, Embeddings]:
            ids = index.columns.entry_ids[rows]
            found, vectors = store.read_embeddings(
                connection, ids.tolist(), modality, index.dim, database.path
            )
            there = np.isin(ids, found)
            gone.extend(rows[~there].tolist())
            return rows[there], index.compared(vectors, modality)

        yield read, gone


def _not_needed(modality: Modality, rows: Rows) -> tuple[Rows, Embeddings]:
    raise AssertionError(f"{modality}: the vectors of {len(rows)} rows are in RAM")
