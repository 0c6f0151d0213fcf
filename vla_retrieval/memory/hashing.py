"""Binary codes of one half, compared by Hamming distance: which rows are worth comparing.

A head that was trained to hash makes them. Where there is none, they say on which side of
hyperplanes a vector lies, and the planes are fitted to the memory's own vectors (iterative
quantization; Gong and Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary
Codes, CVPR 2011; FAISS's ``ITQTransform``). Each modality is centred on its own mean before that:
the two lie in cones apart, and codes of uncentred vectors would tell the cones apart and little
else.

All codes are looked at: 64 bytes a row at 512 bits. Like the codes of ``codes.py`` they only
propose; what they find is compared with the vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faiss as _typed_faiss
import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.codes import Selection
from vla_retrieval.projection import Codes
from vla_retrieval.types import Embeddings, Modality

faiss: Any = _typed_faiss  # its types leave out what is used here

ROWS_TO_FIT = 5_120
"""Sampled rows of each half that planes are fitted to: ten for each of 512 dimensions, as many as
``ITQTransform`` takes; a second or two on one core."""

_BYTE = 8  # bits: codes are whole bytes


@dataclass(frozen=True)
class Planes:
    """Hyperplanes, and where each modality's vectors have their centre.

    Attributes:
        normals: Float32, shape ``(bits, width)``.
        centres: By modality, float32, shape ``(width,)``.
    """

    normals: Embeddings
    centres: Mapping[Modality, Embeddings]

    @classmethod
    def fitted(cls, samples: Mapping[Modality, Embeddings]) -> Planes:
        """Return planes that split samples of both halves well: as many as dimensions, or 8.

        Args:
            samples: By modality, shape ``(n, width)``.
        """
        centres = {modality: sample.mean(axis=0) for modality, sample in samples.items()}
        centred = np.concatenate([samples[m] - centres[m] for m in samples])
        width = centred.shape[1]
        bits = width // _BYTE * _BYTE
        if not bits:  # fewer dimensions than a byte has bits: any planes will do
            return cls(_random_planes(_BYTE, width), centres)
        fitting = faiss.ITQTransform(width, bits, True)
        fitting.train(np.ascontiguousarray(centred))
        normals = faiss.vector_to_array(fitting.pca_then_itq.A).reshape(bits, width)
        return cls(normals, centres)

    @property
    def bits(self) -> int:
        """Length of a code."""
        return len(self.normals)

    def codes(self, vectors: Embeddings, modality: Modality) -> Codes:
        """Return the codes of vectors as they are compared, shape ``(n, bits / 8)``."""
        return np.packbits((vectors - self.centres[modality]) @ self.normals.T > 0, axis=1)


class HashCodes:
    """The codes of one half.

    Args:
        bits: Of a code, a multiple of 8.
    """

    def __init__(self, bits: int) -> None:
        """Start empty."""
        self._index = faiss.IndexBinaryFlat(bits)
        # Counting distances takes half as long as a heap at 4096 of 100 000 rows, the same at 64.
        self._index.use_heap = False

    @classmethod
    def from_bytes(cls, content: Codes) -> HashCodes:
        """Return what ``to_bytes`` gave, whose integrity the caller has checked."""
        codes = cls(content.shape[1] * _BYTE)
        codes.append(content)
        return codes

    def to_bytes(self) -> Codes:
        """Return a copy of all codes, shape ``(rows, bits / 8)``."""
        return self._all().copy()

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._index.ntotal)

    @property
    def size_bytes(self) -> int:
        """About how much RAM it takes."""
        return len(self) * int(self._index.code_size)

    def append(self, codes: Codes) -> None:
        """Append codes of shape ``(n, bits / 8)`` as the next rows."""
        self._index.add(np.ascontiguousarray(codes))

    def take(self, rows: NDArray[np.int64]) -> Codes:
        """Return a copy of some codes, shape ``(n, bits / 8)``."""
        return self._all()[rows]

    def propose(self, queries: Codes, depth: int, selection: Selection | None) -> NDArray[np.int64]:
        """Return the nearest rows of each query, at most ``depth`` each, ascending.

        Args:
            queries: Shape ``(n, bits / 8)``.
            depth: From 1 on.
            selection: Rows that may be proposed; None is all.
        """
        depth = max(1, min(depth, len(self)))
        parameters = None
        if selection is not None:
            parameters = faiss.SearchParameters(sel=selection.selector)
        _, rows = self._index.search(np.ascontiguousarray(queries), depth, params=parameters)
        found: NDArray[np.int64] = np.unique(rows[rows >= 0])
        return found

    def _all(self) -> Codes:
        size = int(self._index.code_size)
        if not len(self):
            return np.empty((0, size), dtype=np.uint8)
        flat: Codes = faiss.rev_swig_ptr(self._index.xb.data(), len(self) * size)
        return flat.reshape(-1, size)


def _random_planes(bits: int, width: int) -> Embeddings:
    return np.random.default_rng(0).standard_normal((bits, width), dtype=np.float32)
