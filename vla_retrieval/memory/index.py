"""The exact index: FAISS over both halves of the entries, in RAM, derived from the database.

It is rebuilt at every open, so it cannot be stale or damaged. Rows are kept in ascending order
of entry_id, which makes the way from an id to its row a binary search and lets a plain flat
index do without FAISS's id map.

Not safe for concurrent use: the memory holds its index lock around every call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.similarity import (
    bounds_of_dots,
    bounds_of_negative_distances,
    prepared,
    similarities,
)
from vla_retrieval.types import Embeddings, Modality, Probe, Similarity

Rows = NDArray[np.int64]
"""Row numbers in the index, ascending, shape ``(n,)``."""

_SCORED_DIRECTLY = 256
"""Up to this many eligible rows are scored in float64 at once: 0.3 ms at 512 dimensions."""


class Scores(NamedTuple):
    """Entries that may be among the best, unranked; every array has shape ``(n,)``.

    Attributes:
        entry_ids: Ascending.
        scores: The weighted sum over the probes.
        scene_scores: Similarity of the scenes, NaN if no probe asked for it.
        instruction_scores: The same of the instructions.
    """

    entry_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    scene_scores: NDArray[np.float64]
    instruction_scores: NDArray[np.float64]


class ExactIndex:
    """Finds the best entries for any probes, exactly.

    Args:
        dim: Length of an embedding.
        similarity: How embeddings are compared.
    """

    def __init__(self, dim: int, similarity: Similarity) -> None:
        """Start empty."""
        self._dim = dim
        self._similarity = similarity
        self._ids: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._halves = {modality: _Half(dim, similarity) for modality in Modality}

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._ids)

    @property
    def entry_ids(self) -> NDArray[np.int64]:
        """The entry of each row, ascending; never changed in place."""
        return self._ids

    def add(
        self, entry_ids: NDArray[np.int64], scenes: Embeddings, instructions: Embeddings
    ) -> None:
        """Append entries.

        Args:
            entry_ids: Ascending, all above those already there.
            scenes: Shape ``(n, dim)``, as the encoder made them.
            instructions: Shape ``(n, dim)``, as the encoder made them.
        """
        self._halves[Modality.SCENE].add(prepared(self._similarity, scenes))
        self._halves[Modality.INSTRUCTION].add(prepared(self._similarity, instructions))
        self._ids = np.concatenate([self._ids, entry_ids])

    def remove(self, entry_ids: NDArray[np.int64]) -> None:
        """Remove the entries that are there; the others are no error."""
        rows = self.rows_of(entry_ids)
        for half in self._halves.values():
            half.remove(rows)
        self._ids = np.delete(self._ids, rows)

    def rows_of(self, entry_ids: NDArray[np.int64]) -> Rows:
        """Return the rows of those entries that are there, ascending."""
        rows = np.searchsorted(self._ids, entry_ids)
        inside = rows < len(self._ids)
        rows, wanted = rows[inside], entry_ids[inside]
        found: Rows = np.unique(rows[self._ids[rows] == wanted]).astype(np.int64)
        return found

    def search(self, probes: Sequence[Probe], k: int, eligible: Rows | None) -> Scores:
        """Return the ``k`` best eligible entries, and more, with exact scores.

        Every entry that is left out has a lower score than the k-th best, so that ranking what
        comes back breaks ties as if all entries had been scored.

        Args:
            probes: Vectors of shape ``(dim,)``, as the encoder made them.
            k: From 1 on.
            eligible: Rows that may be found; None is all.
        """
        ready = [replace(p, vector=prepared(self._similarity, p.vector)) for p in probes]
        return self._score(ready, self._contenders(ready, k, eligible))

    def _contenders(self, probes: Sequence[Probe], k: int, eligible: Rows | None) -> Rows:
        """Return rows that hold the k best and all that tie with the k-th, by FAISS.

        At least k rows score no less than the k-th best lower bound, so a row whose upper bound
        is below that is not among them. One pass per half, for pairs too: Fagin's threshold
        algorithm reads sqrt(n k) rows deep where the halves disagree, over several passes, and
        loses against one pass over a flat index that scores everything anyway.
        """
        everything = np.arange(len(self), dtype=np.int64) if eligible is None else eligible
        active = [probe for probe in probes if probe.weight > 0]
        if not active:
            return everything[:k]
        if len(everything) <= max(k, _SCORED_DIRECTLY):
            return everything
        lower, upper = np.zeros(len(everything)), np.zeros(len(everything))
        for probe, longest in self._scans(active):
            low, high = self._halves[probe.modality].bounds(probe.vector, longest, eligible)
            lower += probe.weight * low
            upper += probe.weight * high
        kth_best = np.partition(lower, -k)[-k]
        contenders: Rows = everything[upper >= kth_best]
        return contenders

    def _scans(self, active: Sequence[Probe]) -> Iterator[tuple[Probe, float]]:
        """Yield what FAISS is asked, with an upper bound on the length of the query.

        Dot products are linear in the query, so the probes of one half become one. Weights are
        taken relative to the largest, which keeps their products in the range of float32.
        """
        largest = max(probe.weight for probe in active)
        scaled = [replace(probe, weight=probe.weight / largest) for probe in active]
        if self._similarity is Similarity.NEGATIVE_L2:
            yield from ((probe, 0.0) for probe in scaled)
            return
        for modality in Modality:
            parts = [probe for probe in scaled if probe.modality is modality]
            if parts:
                weighted = [p.weight * p.vector.astype(np.float64) for p in parts]
                total = np.sum(weighted, axis=0).astype(np.float32)
                longest = float(sum(np.linalg.norm(vector) for vector in weighted))
                yield Probe(modality, total), longest

    def _score(self, probes: Sequence[Probe], rows: Rows) -> Scores:
        """Score rows exactly."""
        total = np.zeros(len(rows))
        halves = []
        for modality in Modality:
            parts = [probe for probe in probes if probe.modality is modality]
            vectors = self._halves[modality].vectors(rows if parts else rows[:0])
            found = [similarities(self._similarity, p.vector, vectors) for p in parts]
            weighted = sum(
                (p.weight * f for p, f in zip(parts, found, strict=True)), np.zeros(len(rows))
            )
            total = total + weighted
            none = np.full(len(rows), np.nan)
            halves.append(none if not found else found[0] if len(found) == 1 else weighted)
        return Scores(self._ids[rows], total, halves[0], halves[1])


class _Half:
    """One FAISS index: the scenes or the instructions, by row."""

    def __init__(self, dim: int, similarity: Similarity) -> None:
        self._dim = dim
        self._squares = similarity is Similarity.NEGATIVE_L2
        self._flat = faiss.IndexFlatL2(dim) if self._squares else faiss.IndexFlatIP(dim)
        self._longest = 0.0  # of all vectors that were ever added

    def add(self, vectors: Embeddings) -> None:
        if len(vectors):
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
            self._longest = max(self._longest, float(lengths.max()))
            with _one_thread():
                self._flat.add(np.ascontiguousarray(vectors))

    def remove(self, rows: Rows) -> None:
        """Remove rows; those behind them move up, in order."""
        if len(rows):
            selector = _Selector(rows, self._flat.ntotal)
            self._flat.remove_ids(selector.selector)

    def vectors(self, rows: Rows) -> Embeddings:
        """Return a copy, shape ``(n, dim)``."""
        found: Embeddings = np.empty((len(rows), self._dim), dtype=np.float32)
        if len(rows):
            with _one_thread():
                self._flat.reconstruct_batch(rows, x=found)
        return found

    def bounds(
        self, query: Embeddings, longest: float, eligible: Rows | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return bounds on the similarity of each eligible row, in row order."""
        selector = None if eligible is None else _Selector(eligible, self._flat.ntotal)
        parameters = None if selector is None else selector.parameters
        # A range search without a limit is a scan with the selector applied inside.
        limit = np.inf if self._squares else -np.inf
        with _one_thread():
            _, found, rows = self._flat.range_search(query[np.newaxis], limit, params=parameters)
        by_row = np.empty(self._flat.ntotal, dtype=np.float32)
        by_row[rows] = found
        in_order = by_row if eligible is None else by_row[eligible]
        if self._squares:
            return bounds_of_negative_distances(in_order, self._dim)
        return bounds_of_dots(in_order, self._dim, longest * self._longest)


class _Selector:
    """Rows as FAISS wants them; owns the bits that FAISS points to."""

    def __init__(self, rows: Rows, total: int) -> None:
        chosen = np.zeros(total, dtype=bool)
        chosen[rows] = True
        self._bits = np.packbits(chosen, bitorder="little")
        self.selector = faiss.IDSelectorBitmap(len(self._bits), faiss.swig_ptr(self._bits))
        self.parameters = faiss.SearchParameters()
        self.parameters.sel = self.selector


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let FAISS use one thread here, which is the fastest for single queries.

    OpenMP keeps the number per calling thread, so that one call at import would hold for the
    importing thread only. It is put back because other libraries may share the OpenMP runtime.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
