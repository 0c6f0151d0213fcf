"""The three similarities: what they are exactly, and how far FAISS may be off.

FAISS sums in float32, in an order that depends on the processor. Scores that leave the memory
are computed here in float64 instead, one row at a time in one order: the same two vectors have
the same score in every call, and equal vectors tie exactly. FAISS only says which rows can be
among the best, with the error bounds below.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.types import Embeddings, Similarity

_UNIT_ROUNDOFF = 2.0**-24  # of float32
_SLACK = 16  # beside dim: higher orders, and the rounding of prepared vectors and of limits
_ROWS_AT_ONCE = 1024  # 4 MB of float64 at 512 dimensions
_SCALED_BYTES = 1 << 16
"""Of float64 at once: they stay in a core's cache, and take no new pages from the system, as a
block of 128 kB does each time."""


def prepared(similarity: Similarity, vectors: Embeddings) -> Embeddings:
    """Return the vectors as they are compared.

    Args:
        similarity: Cosine scales to unit length; the others take vectors as they are.
        vectors: Shape ``(n, dim)`` or ``(dim,)``, no row of length 0.
    """
    if similarity is not Similarity.COSINE:
        return vectors
    at_once = max(1, _SCALED_BYTES // (8 * vectors.shape[-1]))
    if vectors.ndim == 1 or len(vectors) <= at_once:
        return _scaled(vectors)
    unit = np.empty(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), at_once):
        rows = slice(start, start + at_once)
        unit[rows] = _scaled(vectors[rows])
    return unit


def _scaled(vectors: Embeddings) -> Embeddings:
    exact = vectors.astype(np.float64)
    lengths = np.sqrt(np.add.reduce(exact * exact, axis=-1, keepdims=True))
    unit: Embeddings = (exact / lengths).astype(np.float32)
    return unit


def similarities(
    similarity: Similarity, query: Embeddings, vectors: Embeddings
) -> NDArray[np.float64]:
    """Return the similarity of a query with each vector.

    Args:
        similarity: Cosine ``q . c / (|q| |c|)``, dot ``q . c``, or negative L2 ``-|q - c|``.
        query: Shape ``(dim,)``, prepared.
        vectors: Shape ``(n, dim)``, prepared.

    Returns:
        Shape ``(n,)``. A row's value does not depend on the other rows.
    """
    exact_query = query.astype(np.float64)
    if len(vectors) <= _ROWS_AT_ONCE:
        return _similarities(similarity, exact_query, vectors.astype(np.float64))
    found = np.empty(len(vectors), dtype=np.float64)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = vectors[start : start + _ROWS_AT_ONCE].astype(np.float64)
        found[start : start + len(rows)] = _similarities(similarity, exact_query, rows)
    return found


def _similarities(
    similarity: Similarity, query: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.float64]:
    # Not `rows @ query`: BLAS picks its order of summation by the number of rows.
    found: NDArray[np.float64]
    if similarity is Similarity.NEGATIVE_L2:
        found = 0.0 - np.sqrt(np.add.reduce(np.square(rows - query), axis=1))  # never -0.0
    elif similarity is Similarity.DOT:
        found = np.add.reduce(rows * query, axis=1)
    else:
        lengths = np.sqrt(np.add.reduce(rows * rows, axis=1) * np.add.reduce(query * query))
        found = np.add.reduce(rows * query, axis=1) / lengths
        np.minimum(np.maximum(found, -1.0, out=found), 1.0, out=found)  # as clip, in half the time
    return found


class Tolerance(NamedTuple):
    """How far a score from FAISS, in float32, may be from the exact one.

    ``|score - exact| <= relative * |score| + absolute``. The relative part is used for negative
    distances only, which are never above 0.
    """

    relative: float
    absolute: float

    @classmethod
    def of_dots(cls, dim: int, longest_product: float) -> Tolerance:
        """Return that of dot products whose vectors have ``|q| |c| <= longest_product``.

        In any order of summation ``|fl(q . c) - q . c| <= dim u |q| |c|`` to first order
        (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1).
        """
        return cls(0.0, (dim + _SLACK) * _UNIT_ROUNDOFF * longest_product)

    @classmethod
    def of_distances(cls, dim: int) -> Tolerance:
        """Return that of negative distances.

        FAISS sums ``(q_i - c_i)^2`` for a single query. No term is negative, so the same bound
        is relative to the sum; 1e-18 is for squares that underflow.
        """
        return cls((dim + _SLACK) * _UNIT_ROUNDOFF, 1e-18)

    def lowest(self, score: float) -> float:
        """Return how low the score of a row may be whose exact score reaches another row's.

        Args:
            score: Of the other row.
        """
        reached = score - self.relative * abs(score) - self.absolute  # the other's exact score
        return (reached - self.absolute) / (1.0 - self.relative)
