"""What the right answers are, by numpy and one matrix product: no index is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tools.benchmarks.data import CHUNK, FloatArray, IntArray, Pairs
from vla_retrieval.types import Modality

_ROUNDING = 2e-6
"""Two float32 sums of 512 products of unit vectors, in another order, differ by less."""


@dataclass(frozen=True)
class Side:
    """One comparison of a query.

    Attributes:
        half: Which half of the entries.
        asked_by: Which half of the query pairs is the query.
        weight: Of its cosine in the score.
    """

    half: Modality
    asked_by: Modality
    weight: float = 1.0


DIRECTIONS: dict[str, tuple[Side, ...]] = {
    "scenes by image": (Side(Modality.SCENE, Modality.SCENE),),
    "scenes by text": (Side(Modality.SCENE, Modality.INSTRUCTION),),
    "instructions by image": (Side(Modality.INSTRUCTION, Modality.SCENE),),
    "instructions by text": (Side(Modality.INSTRUCTION, Modality.INSTRUCTION),),
    "pair": (
        Side(Modality.SCENE, Modality.SCENE, 0.5),
        Side(Modality.INSTRUCTION, Modality.INSTRUCTION, 0.5),
    ),
}


def half_of(pairs: Pairs, half: Modality) -> FloatArray:
    """One half of the pairs, shape ``(n, dim)``."""
    return pairs.scenes if half is Modality.SCENE else pairs.instructions


class Truth:
    """Knows from which score on an entry is among the best of each query.

    Args:
        gallery: The entries.
        queries: The query pairs.
        sides: How a query and an entry are compared.
        k: How many are wanted.
        rows: The only ones that may be found, ascending, or None for all.
    """

    def __init__(
        self,
        gallery: Pairs,
        queries: Pairs,
        sides: Sequence[Side],
        k: int,
        rows: IntArray | None = None,
    ) -> None:
        self._gallery, self._queries, self._sides = gallery, queries, sides
        self._rows = np.arange(len(gallery)) if rows is None else rows
        self._wanted = min(k, len(self._rows))
        best = np.full((self._wanted, len(queries)), -np.inf, dtype=np.float32)
        for scores in self._scores():
            both = np.concatenate([best, scores])
            best = np.partition(both, len(both) - self._wanted, axis=0)[-self._wanted :]
        self._lowest = best.min(axis=0) - _ROUNDING

    def recall(self, answers: Sequence[npt.ArrayLike]) -> float:
        """The mean share of the best that was found.

        A row counts by its score, not by its number, so that either of two that tie will do.

        Args:
            answers: Row numbers found for query 0, query 1 and so on.
        """
        shares = []
        for number, answer in enumerate(answers):
            rows = np.unique(np.asarray(answer, dtype=np.int64))
            rows = rows[np.isin(rows, self._rows)]
            scores = np.zeros(len(rows), dtype=np.float32)
            for side in self._sides:
                query = half_of(self._queries, side.asked_by)[number]
                scores += side.weight * (half_of(self._gallery, side.half)[rows] @ query)
            shares.append(np.count_nonzero(scores >= self._lowest[number]) / self._wanted)
        return float(np.minimum(shares, 1.0).mean())

    def _scores(self) -> Iterator[FloatArray]:
        for start in range(0, len(self._rows), CHUNK):
            rows = self._rows[start : start + CHUNK]
            total = np.zeros((len(rows), len(self._queries)), dtype=np.float32)
            for side in self._sides:
                vectors = half_of(self._gallery, side.half)[rows]
                total += side.weight * (vectors @ half_of(self._queries, side.asked_by).T)
            yield total
