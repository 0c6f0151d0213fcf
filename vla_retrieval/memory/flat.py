"""One half of the index: a flat FAISS index whose vectors are known by their row.

The only file that calls FAISS. Scores in here are FAISS's, in float32; how far they may be from
the exact ones is the ``Tolerance`` beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.similarity import Tolerance
from vla_retrieval.types import Embeddings, Similarity

Rows = NDArray[np.int64]
"""Row numbers in the index, ascending, shape ``(n,)``."""

_MORE_THAN_ASKED = 16
"""Fetched beyond k, so that seldom a second pass is needed for those that tie with the k-th."""


class FlatHalf:
    """The scenes or the instructions.

    Args:
        dim: Length of an embedding.
        similarity: How embeddings are compared; cosine expects them prepared.
    """

    def __init__(self, dim: int, similarity: Similarity) -> None:
        self._dim = dim
        self._squares = similarity is Similarity.NEGATIVE_L2
        self._flat = faiss.IndexFlatL2(dim) if self._squares else faiss.IndexFlatIP(dim)
        self._longest = 0.0  # of all vectors that were ever added

    def add(self, vectors: Embeddings) -> None:
        """Append vectors of shape ``(n, dim)``."""
        if len(vectors):
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
            self._longest = max(self._longest, float(lengths.max()))
            with _one_thread():
                self._flat.add(np.ascontiguousarray(vectors))

    def remove(self, rows: Rows) -> None:
        """Remove rows; those behind them move up, in order."""
        if len(rows):
            selection = _Selection(rows, self._flat.ntotal)
            self._flat.remove_ids(selection.selector)

    def vectors(self, rows: Rows) -> Embeddings:
        """Return a copy of some vectors, shape ``(n, dim)``."""
        found: Embeddings = np.empty((len(rows), self._dim), dtype=np.float32)
        if len(rows):
            with _one_thread():
                self._flat.reconstruct_batch(rows, x=found)
        return found

    def tolerance(self, query_length: float) -> Tolerance:
        """Return how far FAISS's scores may be off for a query of at most that length."""
        if self._squares:
            return Tolerance.of_distances(self._dim)
        return Tolerance.of_dots(self._dim, query_length * self._longest)

    def scores(self, query: Embeddings, eligible: Rows | None) -> NDArray[np.float32]:
        """Return the score of each eligible row, in row order.

        Args:
            query: Shape ``(dim,)``.
            eligible: None is all rows.
        """
        unlimited = np.inf if self._squares else -np.inf
        found, rows = self._within(query, unlimited, _Selection(eligible, self._flat.ntotal))
        if (rows[1:] < rows[:-1]).any():  # one thread goes by row, but FAISS does not promise it
            found = found[np.argsort(rows)]
        return self._to_scores(found)

    def contenders(
        self, query: Embeddings, k: int, tolerance: Tolerance, eligible: Rows | None
    ) -> Rows:
        """Return all rows whose exact score may be among the k best, ascending.

        Args:
            query: Shape ``(dim,)``.
            k: Less than the number of eligible rows.
            tolerance: Of scores for this query.
            eligible: None is all rows.
        """
        count = self._flat.ntotal if eligible is None else len(eligible)
        selection = _Selection(eligible, self._flat.ntotal)
        depth = min(k + _MORE_THAN_ASKED, count)
        with _one_thread():
            found, rows = self._flat.search(query[np.newaxis], depth, params=selection.parameters)
        scores, best = self._to_scores(found[0]), rows[0]
        lowest = tolerance.lowest(float(scores[k - 1]))
        if scores[-1] >= lowest and depth < count:
            limit = lowest**2 if self._squares else lowest
            _, best = self._within(query, limit, selection)
        else:
            best = best[scores >= lowest]
        ascending: Rows = np.sort(best)
        return ascending

    def _within(
        self, query: Embeddings, limit: float, selection: _Selection
    ) -> tuple[NDArray[np.float32], Rows]:
        """Return dots down to, or squared distances up to, a limit, and their rows."""
        outward = np.float32(np.inf if self._squares else -np.inf)
        beyond = float(np.nextafter(np.float32(limit), outward))  # FAISS leaves the limit out
        with _one_thread():
            _, found, rows = self._flat.range_search(
                query[np.newaxis], beyond, params=selection.parameters
            )
        return found, rows

    def _to_scores(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        return -np.sqrt(np.maximum(found, 0)) if self._squares else found


class _Selection:
    """Rows as FAISS wants them. FAISS holds bare pointers into it: keep it during the call.

    Attributes:
        selector: The rows, or None for all.
        parameters: To search them with, or None for all.
    """

    def __init__(self, rows: Rows | None, total: int) -> None:
        self.selector: Any = None
        self.parameters: Any = None
        if rows is not None:
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
