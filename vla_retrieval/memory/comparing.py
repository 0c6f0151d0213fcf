"""Which rows can be among the best: query vectors against rows in float32, with known errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.columns import Rows
from vla_retrieval.memory.halves import Half, Scan
from vla_retrieval.memory.similarity import Tolerance
from vla_retrieval.memory.vectors import WholeVectors
from vla_retrieval.types import Modality, Similarity

_MORE_THAN_ASKED = 16
"""Fetched beyond k, so that seldom a second pass is needed for those that tie with the k-th."""

_DEVIATIONS = 8.0
"""Of the error of vectors in bytes: four for the k-th best, four for one that belongs there."""


class Comparison(NamedTuple):
    """How rows are compared.

    Attributes:
        similarity: The measure.
        width: Length of a vector.
        halves: Their vectors.
    """

    similarity: Similarity
    width: int
    halves: Mapping[Modality, Half]

    def cut(self, scans: Sequence[Scan], rows: Rows | None, k: int) -> tuple[Rows, bool]:
        """Return those rows whose exact score may be among the k best of them, ascending.

        Args:
            scans: What to compare.
            rows: Ascending; None is all.
            k: How many are wanted.

        Returns:
            The rows, and whether they are surely all: not where vectors are not whole.
        """
        scores = self.scores(scans, rows)
        whole = all(self.halves[scan.modality].vectors.whole for scan in scans)
        if len(scores) <= k:
            kept = np.arange(len(scores))
        elif whole:
            kept = np.flatnonzero(scores >= self._tolerance(scans).lowest(_kth_best(scores, k)))
        else:
            kept = self._few(scans, scores, k)
        return (kept if rows is None else rows[kept]), whole

    def scores(self, scans: Sequence[Scan], rows: Rows | None) -> NDArray[np.float32]:
        """Return the weighted sum of the scores of some rows (None: all), shape ``(n,)``."""
        total: NDArray[np.float32] | None = None
        for scan in scans:
            vectors = self.halves[scan.modality].vectors
            scores = self._to_scores(vectors.values(scan.query, rows))
            if scan.weight != 1.0:
                scores = np.float32(scan.weight) * scores
            total = scores if total is None else total + scores
        assert total is not None
        return total

    def nearest(self, scan: Scan, k: int) -> Rows | None:
        """Return all rows whose exact score may be among the k best, or None if that may be many.

        One pass in which FAISS keeps the best itself. Asked for at most as many as there are.
        """
        vectors = self.halves[scan.modality].vectors
        if not isinstance(vectors, WholeVectors):
            return None
        depth = min(k + _MORE_THAN_ASKED, len(vectors))
        values, rows = vectors.nearest(scan.query, depth)
        scores = self._to_scores(values)
        lowest = self._tolerance([scan]).lowest(float(scores[k - 1]))
        if scores[-1] >= lowest and depth < len(vectors):
            return None  # there may be more
        kept: Rows = rows[scores >= lowest]
        kept.sort()
        return kept

    def _few(self, scans: Sequence[Scan], scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
        """Return the places of the best: each of them is read from the disk."""
        count = len(scores)
        variance = sum(
            (scan.weight * self.halves[scan.modality].vectors.deviation(scan.query)) ** 2
            for scan in scans
        )
        most = min(2 * k + _MORE_THAN_ASKED, count)
        kept = np.argpartition(scores, count - most)[count - most :]
        lowest = _kth_best(scores[kept], k) - _DEVIATIONS * math.sqrt(variance)
        return np.sort(kept[scores[kept] >= lowest])

    def _to_scores(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.similarity is Similarity.NEGATIVE_L2:
            scores: NDArray[np.float32] = -np.sqrt(np.maximum(values, 0))
            return scores
        return values

    def _tolerance(self, scans: Sequence[Scan]) -> Tolerance:
        if self.similarity is Similarity.NEGATIVE_L2:
            relative, absolute = Tolerance.of_distances(self.width)
            return Tolerance(relative, absolute * sum(scan.weight for scan in scans))
        longest = sum(
            scan.weight * scan.length * self.halves[scan.modality].longest for scan in scans
        )
        return Tolerance.of_dots(self.width, longest)


def _kth_best(scores: NDArray[np.float32], k: int) -> float:
    place = len(scores) - k
    sorted_so_far = scores.copy()
    sorted_so_far.partition(place)
    return float(sorted_so_far[place])
