"""Short codes of one half's vectors, in inverted lists: which rows are worth comparing.

Vectors are centred and turned onto the few axes along which they differ (``_axes``), where FAISS's
IVF with product quantisation takes 4 bits for two numbers, searched with SIMD tables ("fast scan";
Andre, Kermarrec, Le Scouarnec, Cache locality is not enough, 2015). It only proposes: what it finds
is compared with the vectors. ``tools/benchmarks/kinds.py`` compares it with other kinds.

All vectors of a modality share a direction, their cone's, which tells none from another; without
it lists and codes are about what differs. It is not taken from a query for dot products:
``q . (c - m)`` is ``q . c`` less the same number for every row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import faiss as _typed_faiss
import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.columns import Mask
from vla_retrieval.types import Embeddings

faiss: Any = _typed_faiss  # its types leave out what is used here

_KEPT = 0.93  # of the variance; what more axes find, comparing more rows finds sooner
_AXES_AT_LEAST, _AXES_STEP = 16, 16
_ROWS_FOR_AXES = 16_384
_NUMBERS_PER_PART = 2  # with 4, twice as many rows have to be compared for queries by text
_BITS = 4  # what fast scan takes
_BY_LIST = 11  # FAISS's way through the lists that is the fastest for one query
_ROUNDS = 8  # of k-means; more change little
_ROWS_PER_LIST = 48
_ROWS_TO_TRAIN_PER_LIST = 24
_MOST_TRAINED_PER_LIST = 256


class Effort(NamedTuple):
    """How hard a search works.

    Attributes:
        probes: Lists that are looked into.
        depth: Rows that are proposed.
    """

    probes: int
    depth: int


class Selection:
    """Rows as FAISS wants them. FAISS holds bare pointers into it: keep it during the call."""

    def __init__(self, mask: Mask) -> None:
        """Take the rows that are True."""
        self._bits = np.packbits(mask, bitorder="little")
        self.selector: Any = faiss.IDSelectorBitmap(len(self._bits), faiss.swig_ptr(self._bits))


def lists_for(rows: int) -> int:
    """Return how many lists suit so many rows: 2048 for 100 000, 8000 for a million.

    Finding the lists of a query costs as many comparisons, fitting them the square of it. Four
    times the root of the rows, FAISS's advice, is too few for queries of the other modality,
    whose best rows are spread over more lists.
    """
    return max(1, min(rows // _ROWS_PER_LIST, round(2048 * (rows / 1e5) ** 0.6)))


def rows_to_train(lists: int) -> int:
    """Return how many sampled rows train so many lists."""
    return max(lists * _ROWS_TO_TRAIN_PER_LIST, 4096)


class Codes:
    """The codes of one half.

    Made by ``Codes.trained`` or ``Codes.from_bytes``.
    """

    def __init__(self, index: Any) -> None:
        """Use ``Codes.trained``."""
        self._whole = index  # FAISS's transforms and lists, one after the other
        self._center, self._axes = (
            faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(2)
        )
        self._index = faiss.downcast_index(index.index)
        self._index.implem = _BY_LIST
        self._squares = index.metric_type == faiss.METRIC_L2
        # Making one takes as long as looking into several lists.
        self._parameters: dict[int, Any] = {}

    @classmethod
    def trained(cls, sample: Embeddings, lists: int, *, squares: bool) -> Codes:
        """Return empty codes, fitted to a sample.

        Args:
            sample: Shape ``(n, dim)``.
            lists: How many.
            squares: Whether vectors are compared by distance, or else by dot product.
        """
        center, axes = _transforms(sample)
        metric = faiss.METRIC_L2 if squares else faiss.METRIC_INNER_PRODUCT
        width = axes.d_out
        parts = next(p for p in range(max(1, width // _NUMBERS_PER_PART), 0, -1) if width % p == 0)
        coarse = faiss.IndexFlat(width, metric)
        index = faiss.IndexIVFPQFastScan(coarse, width, lists, parts, _BITS, metric)
        coarse.this.disown()
        index.own_fields = True
        # What is left of a vector beside its list's centre is shorter, so its code is finer. With
        # distances that would take tables of their own for every list.
        index.by_residual = not squares
        index.cp.niter = _ROUNDS
        index.cp.min_points_per_centroid = 1  # else FAISS prints a warning
        index.cp.max_points_per_centroid = _MOST_TRAINED_PER_LIST
        index.pq.cp.min_points_per_centroid = 1
        index.train(axes.apply(center.apply(np.ascontiguousarray(sample))))
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
    def lists(self) -> int:
        """How many lists there are."""
        return int(self._index.nlist)

    @property
    def size_bytes(self) -> int:
        """About how much RAM it takes: codes and ids, and the lists' centres."""
        index = self._index
        axes = self._axes.d_in * self._axes.d_out
        return len(self) * (index.code_size + 8) + (self.lists * index.d + axes) * 4

    def crowd(self, vectors: Embeddings) -> NDArray[np.int64]:
        """Return how many rows are in the list of each vector, shape ``(n,)``."""
        asked = self._turned(np.ascontiguousarray(vectors), stored=True)
        _, lists = self._index.quantizer.search(asked, 1)
        sizes = self._index.invlists.list_size
        return np.array([sizes(int(number)) for number in lists[:, 0]], dtype=np.int64)

    def append(self, vectors: Embeddings) -> None:
        """Append vectors of shape ``(n, dim)`` as the next rows."""
        rows = np.arange(len(self), len(self) + len(vectors), dtype=np.int64)
        turned = self._turned(np.ascontiguousarray(vectors), stored=True)
        self._index.add_with_ids(turned, rows)

    def propose(
        self, query: Embeddings, effort: Effort, selection: Selection | None
    ) -> NDArray[np.int64]:
        """Return the rows that look best, at most ``effort.depth``, in no order.

        Args:
            query: Shape ``(dim,)``.
            effort: How hard to look.
            selection: Rows that may be proposed; None is all.
        """
        probes = min(effort.probes, self.lists)
        if selection is None:
            if probes not in self._parameters:
                self._parameters[probes] = faiss.SearchParametersIVF(nprobe=probes)
            parameters = self._parameters[probes]
        else:
            parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selection.selector)
        depth = max(1, min(effort.depth, len(self)))
        turned = self._turned(query[np.newaxis], stored=False)
        _, rows = self._index.search(turned, depth, params=parameters)
        found: NDArray[np.int64] = rows[0][rows[0] >= 0]
        return found

    def _turned(self, vectors: Embeddings, *, stored: bool) -> Embeddings:
        """Return vectors of shape ``(n, dim)`` on the axes, shape ``(n, axes)``."""
        centered = self._center.apply(vectors) if stored or self._squares else vectors
        turned: Embeddings = self._axes.apply(centered)
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
    if len(sample) > _ROWS_FOR_AXES:
        sample = sample[rng.choice(len(sample), _ROWS_FOR_AXES, replace=False)]
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
