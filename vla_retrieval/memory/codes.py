"""Short codes of one half's vectors, in inverted lists: which rows are worth comparing.

FAISS's IVF with product quantisation, 256 parts of 4 bits, searched with SIMD tables
("fast scan"; Andre, Kermarrec, Le Scouarnec, Cache locality is not enough, 2015). 128 bytes and
an id per row at 512 dimensions. It only proposes: what it finds is compared with the vectors.
``tools/benchmarks/kinds.py`` compares it with other kinds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import faiss as _typed_faiss
import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.columns import Mask
from vla_retrieval.types import Embeddings

faiss: Any = _typed_faiss  # its types leave out what is used here

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
        self._index = index
        index.implem = _BY_LIST
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
        dim = sample.shape[1]
        parts = next(p for p in range(max(1, dim // _NUMBERS_PER_PART), 0, -1) if dim % p == 0)
        metric = faiss.METRIC_L2 if squares else faiss.METRIC_INNER_PRODUCT
        coarse = faiss.IndexFlat(dim, metric)
        index = faiss.IndexIVFPQFastScan(coarse, dim, lists, parts, _BITS, metric)
        coarse.this.disown()
        index.own_fields = True
        # What is left of a vector beside its list's centre is shorter, so its code is finer. With
        # distances that would take tables of their own for every list.
        index.by_residual = not squares
        index.cp.niter = _ROUNDS
        index.cp.min_points_per_centroid = 1  # else FAISS prints a warning
        index.cp.max_points_per_centroid = _MOST_TRAINED_PER_LIST
        index.pq.cp.min_points_per_centroid = 1
        index.train(np.ascontiguousarray(sample))
        return cls(index)

    @classmethod
    def from_bytes(cls, content: NDArray[np.uint8]) -> Codes:
        """Return what ``to_bytes`` gave, whose integrity the caller has checked."""
        return cls(faiss.deserialize_index(content))

    def to_bytes(self) -> NDArray[np.uint8]:
        """Return all of it, shape ``(bytes,)``."""
        content: NDArray[np.uint8] = faiss.serialize_index(self._index)
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
        return len(self) * (index.code_size + 8) + self.lists * index.d * 4

    def crowd(self, vectors: Embeddings) -> NDArray[np.int64]:
        """Return how many rows are in the list of each vector, shape ``(n,)``."""
        _, lists = self._index.quantizer.search(np.ascontiguousarray(vectors), 1)
        sizes = self._index.invlists.list_size
        return np.array([sizes(int(number)) for number in lists[:, 0]], dtype=np.int64)

    def append(self, vectors: Embeddings) -> None:
        """Append vectors of shape ``(n, dim)`` as the next rows."""
        rows = np.arange(len(self), len(self) + len(vectors), dtype=np.int64)
        self._index.add_with_ids(np.ascontiguousarray(vectors), rows)

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
        _, rows = self._index.search(query[np.newaxis], depth, params=parameters)
        found: NDArray[np.int64] = rows[0][rows[0] >= 0]
        return found
