"""FAISS's brute-force kernels over plain arrays, with as many threads as the caller says.

Values are FAISS's own: dot products, or squared distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _typed_faiss
import numpy as np
from numpy.typing import NDArray

from vla_retrieval.types import Embeddings

faiss: Any = _typed_faiss  # its types leave out what is used here

_GATHERED = 1 / 4
"""Up to this share of a block, rows are read one by one; beyond it reading all is faster."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let FAISS use so many threads here.

    OpenMP keeps the number per calling thread, so that one call at import would hold for the
    importing thread only. It is put back because other libraries may share the OpenMP runtime.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def nearest(
    query: Embeddings, block: Embeddings, k: int, *, squares: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k best values of a block, best first, and their rows.

    Args:
        query: Shape ``(dim,)``.
        block: Shape ``(n, dim)``, contiguous.
        k: At most ``n``.
        squares: Squared distances, lowest first; else dot products, highest first.
    """
    nearest_of = faiss.knn_L2sqr if squares else faiss.knn_inner_product
    values, rows = np.empty(k, dtype=np.float32), np.empty(k, dtype=np.int64)
    nearest_of(
        faiss.swig_ptr(query), faiss.swig_ptr(block), len(query), 1, len(block), k,
        faiss.swig_ptr(values), faiss.swig_ptr(rows),
    )  # fmt: skip
    return values, rows


def values(
    query: Embeddings, block: Embeddings, rows: NDArray[np.int64] | None, *, squares: bool
) -> NDArray[np.float32]:
    """Return the values of some rows of a block, in their order.

    Args:
        query: Shape ``(dim,)``, contiguous.
        block: Shape ``(n, dim)``, contiguous.
        rows: Ascending, or None for all.
        squares: As in ``nearest``.
    """
    if rows is not None and len(rows) <= len(block) * _GATHERED:
        one_by_one = faiss.fvec_L2sqr_by_idx if squares else faiss.fvec_inner_products_by_idx
        found = np.empty(len(rows), dtype=np.float32)
        one_by_one(
            faiss.swig_ptr(found), faiss.swig_ptr(query), faiss.swig_ptr(block),
            faiss.swig_ptr(rows), len(query), 1, len(rows),
        )  # fmt: skip
        return found
    in_turn = faiss.fvec_L2sqr_ny if squares else faiss.fvec_inner_products_ny
    found = np.empty(len(block), dtype=np.float32)
    in_turn(
        faiss.swig_ptr(found), faiss.swig_ptr(query), faiss.swig_ptr(block), len(query), len(block)
    )
    return found if rows is None else found[rows]
