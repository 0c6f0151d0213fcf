"""The exact index: FAISS over both halves of the entries, in RAM, derived from the database.

It is rebuilt at every open, so it cannot be stale or damaged. Rows are kept in ascending order
of entry_id, which makes the way from an id to its row a binary search and lets a plain flat
index do without FAISS's id map.

Not safe for concurrent use: the memory holds its index lock around every call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.flat import FlatHalf, Rows
from vla_retrieval.memory.similarity import Tolerance, prepared, similarities
from vla_retrieval.types import Embeddings, Modality, Probe, Similarity

_SCORED_DIRECTLY = 256
"""Up to this many eligible rows are scored in float64 at once: about 0.2 ms at 512 dimensions."""

_WORTH_RANKING = 1 / 8
"""FAISS picks up to this share of the rows; from there on numpy's partition is no slower."""


class _Scan(NamedTuple):
    """One pass of FAISS over a half.

    Attributes:
        query: Shape ``(dim,)``.
        length: At least its length; not needed for distances.
        weight: Of its scores in the sum.
    """

    modality: Modality
    query: Embeddings
    length: float
    weight: float


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


def rows_of(all_ids: NDArray[np.int64], entry_ids: NDArray[np.int64]) -> Rows:
    """Return at which rows of ``all_ids``, which ascends, some ids are; the others are left out."""
    rows = np.searchsorted(all_ids, entry_ids)
    inside = rows < len(all_ids)
    rows, wanted = rows[inside], entry_ids[inside]
    found: Rows = np.unique(rows[all_ids[rows] == wanted]).astype(np.int64)
    return found


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
        self._halves = {modality: FlatHalf(dim, similarity) for modality in Modality}

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
        rows = rows_of(self._ids, entry_ids)
        for half in self._halves.values():
            half.remove(rows)
        self._ids = np.delete(self._ids, rows)

    def search(self, probes: Sequence[Probe], k: int, eligible: Rows | None) -> Scores:
        """Return the ``k`` best eligible entries, and more, with exact scores.

        No entry that is left out would rank among the ``k`` best, ties included, so that
        ranking what comes back gives what ranking all entries would give.

        Args:
            probes: Vectors of shape ``(dim,)``, as the encoder made them.
            k: From 1 on.
            eligible: Rows that may be found; None is all.
        """
        ready = [replace(p, vector=prepared(self._similarity, p.vector)) for p in probes]
        return self._score(ready, self._contenders(ready, k, eligible))

    def _contenders(self, probes: Sequence[Probe], k: int, eligible: Rows | None) -> Rows:
        """Return rows that hold the k best and all that tie with the k-th, by FAISS.

        A pair takes one pass over each half, which scores everything. Fagin's threshold
        algorithm (Fagin, Lotem, Naor, Optimal Aggregation Algorithms for Middleware, 2003) is
        for lists that are cheaper to read in part: it goes about sqrt(n k) deep where the
        halves disagree, and each step deeper is another pass over a flat index.
        """
        count = len(self) if eligible is None else len(eligible)
        active = [probe for probe in probes if probe.weight > 0]
        if not active or count <= max(k, _SCORED_DIRECTLY):
            everything = np.arange(len(self), dtype=np.int64) if eligible is None else eligible
            return everything if active else everything[:k]
        scans = list(self._scans(active))
        if len(scans) == 1 and k <= count * _WORTH_RANKING:
            (scan,) = scans
            half = self._halves[scan.modality]
            return half.contenders(scan.query, k, half.tolerance(scan.length), eligible)
        scores = np.zeros(count, dtype=np.float32)
        relative = absolute = 0.0
        for scan in scans:
            half = self._halves[scan.modality]
            scores += np.float32(scan.weight) * half.scores(scan.query, eligible)
            tolerance = half.tolerance(scan.length)
            relative = tolerance.relative
            absolute += scan.weight * tolerance.absolute
        kth_best = float(np.partition(scores, -k)[-k])
        rows = np.flatnonzero(scores >= Tolerance(relative, absolute).lowest(kth_best))
        return rows if eligible is None else eligible[rows]

    def _scans(self, active: Sequence[Probe]) -> Iterator[_Scan]:
        """Yield what FAISS is asked.

        Dot products are linear in the query, so the probes of one half become one. Weights are
        taken relative to the largest, which keeps their products in the range of float32.
        """
        largest = max(probe.weight for probe in active)
        if self._similarity is Similarity.NEGATIVE_L2:
            for probe in active:
                yield _Scan(probe.modality, probe.vector, 0.0, probe.weight / largest)
            return
        for modality in Modality:
            parts = [
                (probe.weight / largest) * probe.vector.astype(np.float64)
                for probe in active
                if probe.modality is modality
            ]
            if parts:
                length = sum(float(np.linalg.norm(part)) for part in parts)
                yield _Scan(modality, np.sum(parts, axis=0).astype(np.float32), length, 1.0)

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
