"""Short codes of one half's vectors: which rows are worth comparing.

Vectors are centred and turned onto the few axes along which they differ (``_transforms``), where
FAISS's product quantisation takes 4 bits for two numbers, searched with SIMD tables ("fast scan";
Andre, Kermarrec, Le Scouarnec, Cache locality is not enough, 2015). It only proposes: what it
finds is compared with the vectors.

All codes are looked at, 3 nanoseconds a row. Inverted lists over them would save some of that for
queries of the entries' own modality. Those of the other lie in a cone of their own, and their best
rows are spread over so many lists that looking into those takes longer than looking at all
(``tools/benchmarks/kinds.py``); and lists take minutes to fit to a million rows.

All vectors of a modality share a direction, their cone's, which tells none from another; without
it codes are about what differs. It is not taken from a query for dot products:
``q . (c - m)`` is ``q . c`` less the same number for every row.
"""

from __future__ import annotations

from typing import Any

import faiss as _typed_faiss
import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory import blocks
from vla_retrieval.memory.columns import Mask
from vla_retrieval.types import Embeddings

faiss: Any = _typed_faiss  # its types leave out what is used here

ROWS_TO_FIT = 16_384
"""Sampled rows that codes are fitted to: a second or two on one core."""

_KEPT = 0.9  # of the variance; what more axes find, comparing more rows finds sooner
_AXES_AT_LEAST, _AXES_STEP = 16, 16
_NUMBERS_PER_PART = 2  # with 4, twice as many rows have to be compared for queries by text
_BITS = 4  # what fast scan takes


class Selection:
    """Rows as FAISS wants them. FAISS holds bare pointers into it: keep it during the call."""

    def __init__(self, mask: Mask) -> None:
        """Take the rows that are True."""
        self._bits = np.packbits(mask, bitorder="little")
        self.selector: Any = faiss.IDSelectorBitmap(len(self._bits), faiss.swig_ptr(self._bits))


class Codes:
    """The codes of one half.

    Made by ``Codes.trained`` or ``Codes.from_bytes``.
    """

    def __init__(self, index: Any) -> None:
        """Use ``Codes.trained``."""
        self._whole = index  # FAISS's transforms and codes, one after the other
        self._center, self._axes = (
            faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(2)
        )
        self._index = faiss.downcast_index(index.index)
        self._squares = index.metric_type == faiss.METRIC_L2
        # For one query numpy is done before FAISS's wrapper has begun.
        self._mean = faiss.vector_to_array(self._center.mean)
        self._matrix = faiss.vector_to_array(self._axes.A).reshape(self._axes.d_out, -1)

    @classmethod
    def trained(cls, sample: Embeddings, *, squares: bool) -> Codes:
        """Return empty codes, fitted to a sample.

        Args:
            sample: Shape ``(n, dim)``.
            squares: Whether vectors are compared by distance, or else by dot product.
        """
        center, axes = _transforms(sample)
        metric = faiss.METRIC_L2 if squares else faiss.METRIC_INNER_PRODUCT
        width = axes.d_out
        parts = next(p for p in range(max(1, width // _NUMBERS_PER_PART), 0, -1) if width % p == 0)
        block = blocks.fastest(width, parts, _BITS)
        # One list: of FAISS's fast scans, only that over lists can be told which rows may be found.
        coarse = faiss.IndexFlat(width, metric)
        index = faiss.IndexIVFPQFastScan(coarse, width, 1, parts, _BITS, metric, block)
        coarse.this.disown()
        index.own_fields = True
        index.by_residual = False
        index.pq.cp.min_points_per_centroid = 1  # else FAISS prints a warning
        index.cp.min_points_per_centroid = 1
        index.train(_turned(center, axes, sample))
        whole = faiss.IndexPreTransform(index)
        for transform in (axes, center):
            whole.prepend_transform(transform)
            transform.this.disown()
        index.this.disown()
        whole.own_fields = True
        return cls(whole)

    @classmethod
    def from_bytes(cls, content: NDArray[np.uint8]) -> Codes:
        """Return what ``to_bytes`` gave, whose integrity the caller has checked."""
        return cls(faiss.deserialize_index(content))

    def to_bytes(self) -> NDArray[np.uint8]:
        """Return all of it, shape ``(bytes,)``."""
        content: NDArray[np.uint8] = faiss.serialize_index(self._whole)
        return content

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._index.ntotal)

    @property
    def size_bytes(self) -> int:
        """About how much RAM it takes: codes and row numbers, and the axes."""
        axes = self._axes.d_in * self._axes.d_out
        return len(self) * (self._index.code_size + 8) + axes * 4

    def append(self, vectors: Embeddings) -> None:
        """Append vectors of shape ``(n, dim)`` as the next rows."""
        rows = np.arange(len(self), len(self) + len(vectors), dtype=np.int64)
        self._index.add_with_ids(_turned(self._center, self._axes, vectors), rows)

    def propose(
        self, query: Embeddings, depth: int, selection: Selection | None
    ) -> NDArray[np.int64]:
        """Return the rows that look best, at most ``depth``, in no order.

        Args:
            query: Shape ``(dim,)``.
            depth: From 1 on.
            selection: Rows that may be proposed; None is all.
        """
        parameters = None
        if selection is not None:
            parameters = faiss.SearchParametersIVF(nprobe=1, sel=selection.selector)
        if not len(self):
            return np.empty(0, dtype=np.int64)
        turned = self._matrix @ (query - self._mean if self._squares else query)
        depth = min(depth, len(self))
        # FAISS's function itself: its wrapper in Python takes longer than the product above.
        values, rows = np.empty(depth, dtype=np.float32), np.empty(depth, dtype=np.int64)
        self._index.search_c(
            1, faiss.swig_ptr(turned), depth, faiss.swig_ptr(values), faiss.swig_ptr(rows),
            parameters,
        )  # fmt: skip
        return rows if rows[-1] >= 0 else rows[rows >= 0]  # it fills up with -1


def _turned(center: Any, axes: Any, vectors: Embeddings) -> Embeddings:
    """Return vectors of shape ``(n, dim)`` centred and on the axes, shape ``(n, axes)``."""
    turned: Embeddings = axes.apply(center.apply(np.ascontiguousarray(vectors)))
    return turned


def _transforms(sample: Embeddings) -> tuple[Any, Any]:
    """Return FAISS's transforms that take the mean away and keep the axes that matter.

    Those are the principal axes with most of the variance. They are turned among each other at
    random, so that no part of a code gets more of it than another (as OPQ begins; Ge, He, Ke, Sun,
    Optimized Product Quantization, 2013).

    Args:
        sample: Shape ``(n, dim)``.
    """
    rng = np.random.default_rng(0)
    dim = sample.shape[1]
    center = faiss.CenteringTransform(dim)
    center.train(np.ascontiguousarray(sample))
    centered = sample - sample.mean(axis=0)
    variances, directions = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
    enough = int(np.searchsorted(np.cumsum(variances), _KEPT * variances.sum())) + 1
    width = min(dim, max(_AXES_AT_LEAST, -(-enough // _AXES_STEP) * _AXES_STEP))
    mixed, _ = np.linalg.qr(rng.standard_normal((width, width)))
    matrix = (mixed @ directions[:, :width].T).astype(np.float32)
    axes = faiss.LinearTransform(dim, width, False)
    faiss.copy_array_to_vector(matrix.ravel(), axes.A)
    axes.is_trained = True
    return center, axes
