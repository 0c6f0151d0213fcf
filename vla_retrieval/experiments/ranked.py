"""Rankings of many queries, looked at some at a time: in RAM, or in files of the work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.run import Run
from vla_retrieval.memory.failures import storage_errors

_ROWS = 256
_JUDGEMENTS = 1 << 17
"""At once: each is a few numbers of 8 bytes while it is scored."""
_HELD = 1 << 18
"""Judgements that are kept to be hashed; beyond, they are made again for each column."""


class Rankings(Protocol):
    """Rankings of ``m`` queries, of gallery positions.

    Attributes:
        depth: Most entries that a query has.
    """

    depth: int

    def __len__(self) -> int:
        """Return m."""

    def read(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return positions and scores of some queries, shape ``(stop - start, depth)`` each.

        As ``Run`` has them: best first, padded with -1 and NaN.
        """


class HeldRankings:
    """Rankings in RAM."""

    def __init__(self, run: Run) -> None:
        """Take all of them."""
        self.depth = run.depth
        self._run = run

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self._run.query_ids)

    def read(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return positions and scores of some queries."""
        return self._run.entry_ids[start:stop], self._run.scores[start:stop]


class StoredRankings:
    """Rankings in a file, to which a broken evaluation appends the missing ones.

    The file stays readable through this object when it is removed. What a process that was killed
    left of its last row is cut off.

    Args:
        path: Of the file; it may not exist yet.
        depth: Entries of a query.

    Raises:
        StorageError: If the disk refuses, here and in each method.
    """

    def __init__(self, path: Path, depth: int) -> None:
        """Open the file."""
        self.depth = depth
        self._row = np.dtype([("entries", "<i8", (depth,)), ("scores", "<f8", (depth,))])
        self._path = path
        with storage_errors("open", path):
            self._file = path.open("a+b")
            self._count = self._file.seek(0, 2) // self._row.itemsize
            self._file.truncate(self._count * self._row.itemsize)

    def __len__(self) -> int:
        """Return the number of queries that are there."""
        return self._count

    def append(self, entries: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Append the rankings of some queries, shape ``(n, depth)`` each."""
        rows = np.empty(len(entries), self._row)
        rows["entries"], rows["scores"] = entries, scores
        with storage_errors("write", self._path):
            self._file.write(rows.tobytes())
            self._file.flush()
        self._count += len(rows)

    def read(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return positions and scores of some queries."""
        with storage_errors("read", self._path):
            self._file.seek(start * self._row.itemsize)
            content = self._file.read((stop - start) * self._row.itemsize)
        rows = np.frombuffer(content, self._row)
        return np.ascontiguousarray(rows["entries"]), np.ascontiguousarray(rows["scores"])


class Judging(Protocol):
    """Says what is relevant."""

    @property
    def most(self) -> int:
        """Entries that are relevant to a query, at most."""

    def qrels(self, frames: Sequence[Frame]) -> Qrels:
        """Return which gallery positions are relevant to some frames."""


@dataclass(frozen=True)
class Ranked:
    """One direction's rankings and their relevance.

    Attributes:
        frames: One per query.
        rankings: Theirs.
        judge: Says what is relevant to them.
    """

    frames: Sequence[Frame]
    rankings: Rankings
    judge: Judging

    def parts(self) -> Iterator[tuple[Run, Qrels]]:
        """Yield the queries in order, as many at a time as take little RAM."""
        for start, stop in self._bounds():
            yield self.part(start, stop)

    def rows(self, rows: Sequence[int]) -> tuple[Run, Qrels]:
        """Return a few queries, different ones in any order."""
        qrels = self.judge.qrels([self.frames[row] for row in rows])
        read = [self.rankings.read(row, row + 1) for row in rows]
        entries, scores = (np.concatenate(column) for column in zip(*read, strict=True))
        return Run(qrels.query_ids, entries, scores), qrels

    def part(self, start: int, stop: int) -> tuple[Run, Qrels]:
        """Return some queries, one after the other."""
        qrels = self.judge.qrels(self.frames[start:stop])
        return Run(qrels.query_ids, *self.rankings.read(start, stop)), qrels

    def update(self, digest: hashlib._Hash) -> None:
        """Hash positions and scores, then the relevance, each of all queries."""
        for which in (0, 1):
            for start, stop in self._bounds():
                digest.update(self.rankings.read(start, stop)[which].tobytes())
        count = np.zeros(1, np.int64)
        digest.update(count.tobytes())
        entries: list[bytes] = []
        grades: list[bytes] = []
        for start, stop in self._bounds():
            qrels = self.judge.qrels(self.frames[start:stop])
            offsets = count + qrels.offsets[1:]
            digest.update(offsets.tobytes())
            count = offsets[-1:]
            if count[0] <= _HELD:
                entries.append(qrels.entry_ids.tobytes())
                grades.append(qrels.grades.tobytes())
        if count[0] <= _HELD:  # to judge takes longer than to hash
            for column in (entries, grades):
                digest.update(b"".join(column))
            return
        del entries, grades
        for name in ("entry_ids", "grades"):
            for start, stop in self._bounds():
                qrels = self.judge.qrels(self.frames[start:stop])
                digest.update(np.ascontiguousarray(getattr(qrels, name)).tobytes())

    @property
    def run(self) -> Run:
        """All rankings at once."""
        ids = tuple(frame.query_id for frame in self.frames)
        return Run(ids, *self.rankings.read(0, len(self.rankings)))

    @property
    def qrels(self) -> Qrels:
        """All relevance at once."""
        return self.judge.qrels(self.frames)

    def _bounds(self) -> Iterator[tuple[int, int]]:
        rows = max(1, min(_ROWS, _JUDGEMENTS // max(1, self.judge.most)))
        for start in range(0, len(self.frames), rows):
            yield start, min(start + rows, len(self.frames))
