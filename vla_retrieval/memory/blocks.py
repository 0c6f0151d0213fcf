"""How many codes FAISS scans together: measured on the processor that will scan them.

The kernels differ, and which is the fastest does not follow from the instructions that a processor
has: of two with AVX-512, one scanned blocks of 32 rows in 0.75 of the time of blocks of 128, the
other took 1.2 times as long for them.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import faiss as _typed_faiss
import numpy as np

from vla_retrieval.memory import kernels

faiss: Any = _typed_faiss  # its types leave out what is used here

_SIZES = (32, 64, 128)
_BYTES = 4 << 20  # of codes: more than fits beside a core
_ROWS = 131_072
_DEPTH = 64
_TURNS = 12


@cache
def fastest(width: int, parts: int, bits: int) -> int:
    """Return how many rows to scan together, after some tens of milliseconds.

    Args:
        width: Length of a vector.
        parts: That it is cut into for quantisation; they divide it.
        bits: Of the code of a part.
    """
    rng = np.random.default_rng(0)
    plain = _filled(width, parts, bits, rng)
    packed = {size: faiss.IndexIVFPQFastScan(plain, size) for size in _SIZES}
    seconds: dict[int, list[float]] = {size: [] for size in _SIZES}
    values, rows = np.empty(_DEPTH, dtype=np.float32), np.empty(_DEPTH, dtype=np.int64)
    with kernels.threads(1):
        for query in rng.standard_normal((_TURNS, width), dtype=np.float32):
            for size, index in packed.items():
                started = time.perf_counter()
                index.search_c(
                    1, faiss.swig_ptr(query), _DEPTH, faiss.swig_ptr(values), faiss.swig_ptr(rows),
                    None,
                )  # fmt: skip
                seconds[size].append(time.perf_counter() - started)
    return min(_SIZES, key=lambda size: min(seconds[size]))


def _filled(width: int, parts: int, bits: int, rng: np.random.Generator) -> Any:
    """Return an index with random codes, which fast scan packs as it packs fitted ones."""
    coarse = faiss.IndexFlatIP(width)
    coarse.add(np.zeros((1, width), dtype=np.float32))
    index = faiss.IndexIVFPQ(coarse, width, 1, parts, bits, faiss.METRIC_INNER_PRODUCT)
    coarse.this.disown()
    index.own_fields = True
    index.by_residual = False
    index.is_trained = True
    centroids = rng.standard_normal(width << bits, dtype=np.float32)
    faiss.copy_array_to_vector(centroids, index.pq.centroids)
    count = min(_BYTES // index.code_size, _ROWS)
    rows = np.arange(count, dtype=np.int64)
    codes = rng.integers(0, 256, (count, index.code_size), dtype=np.uint8)
    index.invlists.add_entries(0, count, faiss.swig_ptr(rows), faiss.swig_ptr(codes))
    index.ntotal = count
    return index
