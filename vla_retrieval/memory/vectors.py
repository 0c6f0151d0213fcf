"""The vectors of one half: whole, in RAM or on the disk, or in RAM in 8 bits per number.

They lie in blocks that are appended to and never moved: a snapshot reads them while rows are
added, and growing copies nothing. Room that is not filled yet takes no RAM, because the kernel
backs pages when they are first written.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vla_retrieval.memory import kernels
from vla_retrieval.memory.columns import Rows
from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.types import Embeddings

BLOCK_ROWS = 131_072  # 256 MB of address space at 512 dimensions; RAM only as far as filled
MAPPED_ROWS = 8_192  # 16 MB of a file at 512 dimensions, of which room is taken at once
_ROWS_UNPACKED = 1_024  # at once, 2 MB: the allocator gives as much again without new pages


class Vectors(Protocol):
    """The vectors of one half, by row.

    Attributes:
        whole: Whether vectors come back as they were added.
        bytes_per_row: RAM per vector.
    """

    whole: bool
    bytes_per_row: int

    def __len__(self) -> int:
        """Return the number of rows."""

    def append(self, vectors: Embeddings) -> None:
        """Append vectors of shape ``(n, dim)``."""

    def grown(self, rows: int) -> Iterator[NDArray[Any]]:
        """Yield room for so many more rows as they are stored (``blocks``), part by part.

        The caller fills each part before it takes the next.
        """

    def take(self, rows: Rows) -> Embeddings:
        """Return a copy of some vectors, shape ``(n, dim)``."""

    def values(self, query: Embeddings, rows: Rows | None) -> NDArray[np.float32]:
        """Return the dot product, or squared distance, of some rows (None: all) with a query."""

    def deviation(self, query: Embeddings) -> float:
        """Return the standard deviation of the error of a score that ``values`` leads to."""

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """Yield the first rows as they are stored; they never change."""

    def same(self, rows: Rows, vectors: Embeddings) -> NDArray[np.bool_]:
        """Return which rows hold, bit by bit, what appending these vectors would store.

        Args:
            rows: Ascending, shape ``(n,)``.
            vectors: Shape ``(n, dim)``.
        """


class _Blocks:
    """Rows of one dtype in blocks that never move, in RAM or in files of a folder."""

    def __init__(self, dim: int, dtype: type[np.generic], folder: Path | None = None) -> None:
        self._dim = dim
        self._dtype = np.dtype(dtype)
        self._folder = folder
        self.rows = BLOCK_ROWS if folder is None else MAPPED_ROWS
        self._all: list[NDArray[Any]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, rows: NDArray[Any]) -> None:
        taken = 0
        for room in self.grown(len(rows)):
            room[:] = rows[taken : taken + len(room)]
            taken += len(room)

    def grown(self, rows: int) -> Iterator[NDArray[Any]]:
        """Yield room for so many more rows, part by part, each to be filled before the next."""
        while rows:
            inside = self._size % self.rows
            if inside == 0:
                self._all.append(self._room())
            count = min(rows, self.rows - inside)
            yield self._all[-1][inside : inside + count]
            self._size += count
            rows -= count

    def filled(self, rows: int) -> Iterator[NDArray[Any]]:
        for number, block in enumerate(self._all):
            inside = min(rows - number * self.rows, self.rows)
            if inside > 0:
                yield block[:inside]

    def parts(self, rows: Rows) -> Iterator[tuple[NDArray[Any], Rows, slice]]:
        """Yield each block that holds some of the rows, those rows in it, and their places."""
        if len(self._all) == 1:
            yield self._all[0][: self._size], rows, slice(0, len(rows))
            return
        cuts = np.searchsorted(rows, np.arange(len(self._all) + 1) * self.rows)
        for number, block in enumerate(self.filled(self._size)):
            here = slice(int(cuts[number]), int(cuts[number + 1]))
            if here.start < here.stop:
                yield block, rows[here] - number * self.rows, here

    def _room(self) -> NDArray[Any]:
        if self._folder is None:
            return np.empty((self.rows, self._dim), dtype=self._dtype)
        size = self.rows * self._dim * self._dtype.itemsize
        mapping = storage_errors("map vectors from a file in", self._folder)
        with mapping, tempfile.TemporaryFile(dir=self._folder) as file:
            # Else a disk that is full would end the process when a page is written.
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
        return np.frombuffer(mapped, self._dtype).reshape(self.rows, self._dim)


class WholeVectors:
    """Float32, as they were added.

    Args:
        dim: Length of a vector.
        squares: Whether ``values`` are squared distances.
        folder: Where they are mapped from files without a name, or None to keep them in RAM. What
            is mapped counts as RAM of the process only until somebody else needs it.
    """

    whole = True

    def __init__(self, dim: int, *, squares: bool, folder: Path | None = None) -> None:
        """Start empty."""
        self.bytes_per_row = 4 * dim
        self._dim = dim
        self._squares = squares
        self._folder = folder
        self._blocks = _Blocks(dim, np.float32, folder)

    def empty(self) -> WholeVectors:
        """Return an empty one that keeps them in the same way."""
        return WholeVectors(self._dim, squares=self._squares, folder=self._folder)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._blocks)

    def append(self, vectors: Embeddings) -> None:
        """Append vectors of shape ``(n, dim)``."""
        self._blocks.append(vectors)

    def grown(self, rows: int) -> Iterator[Embeddings]:
        """Yield room for so many more rows, as ``Vectors.grown`` does."""
        return self._blocks.grown(rows)

    def take(self, rows: Rows) -> Embeddings:
        """Return a copy of some vectors, shape ``(n, dim)``."""
        if 0 < len(self) <= self._blocks.rows:
            (block,) = self.blocks(len(self))
            return np.take(block, rows, axis=0)
        found: Embeddings = np.empty((len(rows), self._dim), dtype=np.float32)
        for block, inside, here in self._blocks.parts(rows):
            found[here] = block[inside]
        return found

    def values(self, query: Embeddings, rows: Rows | None) -> NDArray[np.float32]:
        """Return the dot product, or squared distance, of some rows (None: all) with a query."""
        squares = self._squares
        found = np.empty(len(self) if rows is None else len(rows), dtype=np.float32)
        if rows is None:
            for number, block in enumerate(self.blocks(len(self))):
                start = number * self._blocks.rows
                scored = kernels.values(query, block, None, squares=squares)
                found[start : start + len(block)] = scored
            return found
        for block, inside, here in self._blocks.parts(rows):
            found[here] = kernels.values(query, block, inside, squares=squares)
        return found

    def nearest(self, query: Embeddings, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the k best values, best first, and their rows."""
        if len(self) <= self._blocks.rows:
            (block,) = self.blocks(len(self))
            return kernels.nearest(query, block, k, squares=self._squares)
        values, rows = [], []
        for number, block in enumerate(self.blocks(len(self))):
            best, inside = kernels.nearest(query, block, min(k, len(block)), squares=self._squares)
            values.append(best)
            rows.append(inside + number * self._blocks.rows)
        found = np.concatenate(values)
        best_first = np.argsort(found if self._squares else -found, kind="stable")[:k]
        return found[best_first], np.concatenate(rows)[best_first]

    def deviation(self, query: Embeddings) -> float:
        """Return 0: what float32 loses is bounded by ``Tolerance``."""
        return 0.0

    def blocks(self, rows: int) -> Iterator[Embeddings]:
        """Yield the first rows as they are stored; they never change."""
        return self._blocks.filled(rows)

    def same(self, rows: Rows, vectors: Embeddings) -> NDArray[np.bool_]:
        """Return which rows hold these vectors, shape ``(n, dim)``, bit by bit."""
        return _same_bits(self.take(rows), vectors)


class ByteVectors:
    """Each number in 8 bits, between the least and the greatest of its dimension.

    Good for choosing whom to compare exactly, not for a score that leaves the memory.

    Args:
        low: Value of code 0 in each dimension, shape ``(dim,)``.
        step: Between two codes, shape ``(dim,)``, above 0.
        squares: Whether ``values`` are squared distances.
    """

    whole = False

    def __init__(self, low: Embeddings, step: Embeddings, *, squares: bool) -> None:
        """Start empty."""
        self.low = low
        self.step = step
        self.bytes_per_row = len(low)
        self._squares = squares
        self._blocks = _Blocks(len(low), np.uint8)

    @classmethod
    def fitted(cls, sample: Embeddings, *, squares: bool) -> ByteVectors:
        """Return an empty one whose range is that of a sample, shape ``(n, dim)``, and 10% more.

        What lies beyond is clipped, so a sample that misses a few extremes costs little.
        """
        low, high = sample.min(axis=0), sample.max(axis=0)
        margin = 0.05 * (high - low)
        step = np.maximum((high - low + 2 * margin) / 255, np.float32(1e-12))
        return cls((low - margin).astype(np.float32), step.astype(np.float32), squares=squares)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._blocks)

    def append(self, vectors: Embeddings) -> None:
        """Append vectors of shape ``(n, dim)``, rounded to the nearest code."""
        self._blocks.append(self._rounded(vectors))

    def grown(self, rows: int) -> Iterator[NDArray[np.uint8]]:
        """Yield room for so many more rows, as ``Vectors.grown`` does."""
        return self._blocks.grown(rows)

    def take(self, rows: Rows) -> Embeddings:
        """Return what is left of some vectors, shape ``(n, dim)``."""
        vectors: Embeddings = self._codes(rows, np.float32) * self.step + self.low
        return vectors

    def values(self, query: Embeddings, rows: Rows | None) -> NDArray[np.float32]:
        """Return about the dot product, or squared distance, of some rows (None: all)."""
        if rows is None:
            rows = np.arange(len(self), dtype=np.int64)
        found = np.empty(len(rows), dtype=np.float32)
        # q . (low + step * code) is q . low + (q * step) . code: a third of the work.
        shift, scaled = query @ self.low, query * self.step
        for start in range(0, len(rows), _ROWS_UNPACKED):
            some = rows[start : start + _ROWS_UNPACKED]
            here = slice(start, start + len(some))
            if self._squares:
                found[here] = np.square(self.take(some) - query).sum(axis=1)
            else:
                found[here] = self._codes(some, np.float32) @ scaled + shift
        return found

    def deviation(self, query: Embeddings) -> float:
        """Return the standard deviation of the error of a score that ``values`` leads to.

        A number is off by up to half a step, evenly spread. A distance changes with a vector by
        no more than the vector is off along the line between the two.
        """
        if self._squares:
            return float(self.step.max()) / 12**0.5
        return float(np.sqrt(np.square(query * self.step).sum() / 12))

    def blocks(self, rows: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the first rows as they are stored; they never change."""
        return self._blocks.filled(rows)

    def same(self, rows: Rows, vectors: Embeddings) -> NDArray[np.bool_]:
        """Return which rows hold the codes of these vectors, shape ``(n, dim)``."""
        return _same_bits(self._codes(rows, np.uint8), self._rounded(vectors))

    def _rounded(self, vectors: Embeddings) -> NDArray[np.uint8]:
        codes = np.rint((vectors - self.low) / self.step)
        return np.clip(codes, 0, 255).astype(np.uint8)

    def _codes(self, rows: Rows, dtype: DTypeLike) -> NDArray[Any]:
        codes = np.empty((len(rows), len(self.low)), dtype=dtype)
        for block, inside, here in self._blocks.parts(rows):
            codes[here] = block[inside]
        return codes


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of two contiguous arrays of one dtype and shape have the same bytes."""
    if not len(one):
        return np.zeros(0, dtype=np.bool_)
    same: NDArray[np.bool_] = (one.view(np.uint8) == other.view(np.uint8)).all(axis=1)
    return same
