"""Run: what was retrieved for which query, best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.arrays import integers, reals
from vla_retrieval.evaluation.query_ids import checked_query_ids
from vla_retrieval.ranking import order

PADDING = -1
"""In place of an entry id where a query has fewer results than others."""

Hits: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Entry ids and scores of one query."""


@dataclass(frozen=True, eq=False)
class Run:
    """Rankings of ``m`` queries, at most ``depth`` entries each.

    Rows are in the order of ``ranking.order``: higher score first, equal scores by lower entry id.
    The arrays are read-only.

    Attributes:
        query_ids: ``m`` different ids, as ``checked_query_ids`` takes them.
        entry_ids: Int64, shape ``(m, depth)``, each once in a row, padded at the end with -1.
        scores: Float64, shape ``(m, depth)``, padded with NaN.

    Raises:
        InvalidInputError: If any of this does not hold.
    """

    query_ids: tuple[str, ...]
    entry_ids: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_ids", checked_query_ids(self.query_ids))
        object.__setattr__(self, "entry_ids", integers("entry_ids", self.entry_ids, 2))
        object.__setattr__(self, "scores", reals("scores", self.scores, 2))
        self._check_shapes()
        self._check_padding()
        self._check_duplicates()
        self._check_order()

    @classmethod
    def from_scores(
        cls, query_ids: Sequence[str], entry_ids: ArrayLike, scores: ArrayLike, depth: int
    ) -> Run:
        """Rank scored entries.

        Args:
            query_ids: ``m`` ids.
            entry_ids: Integers from 0 on, shape ``(m, n)`` in any order, or ``(n,)`` where all
                queries have the same.
            scores: Shape ``(m, n)``. What scores NaN is left out.
            depth: Most entries to keep of a query, from 1 on; the run has as many columns.

        Raises:
            InvalidInputError: If the shapes do not fit, ``depth`` is below 1, an entry comes twice
                in a row, or a value is one that ``Run`` refuses.
        """
        score = reals("scores", scores, 2)
        entry = np.asarray(entry_ids)
        if entry.ndim == 1 and entry.shape == score.shape[1:]:
            entry = np.broadcast_to(entry, score.shape)
        entry = integers("entry_ids", entry, 2)
        if entry.shape != score.shape or len(entry) != len(query_ids):
            got = f"{len(query_ids)} ids, {entry.shape} and {score.shape}"
            raise InvalidInputError(
                "query_ids, entry_ids, scores", "one row for each query, of one shape", got
            )
        return cls._ranked(query_ids, zip(entry, score, strict=True), depth)

    @classmethod
    def from_hits(
        cls,
        query_ids: Sequence[str],
        rows: ArrayLike,
        entry_ids: ArrayLike,
        scores: ArrayLike,
        depth: int | None = None,
    ) -> Run:
        """Rank hits that come in any order, a different number for each query.

        Args:
            query_ids: ``m`` ids.
            rows: Integers, shape ``(n,)``: position in ``query_ids`` of each hit's query.
            entry_ids: Integers from 0 on, shape ``(n,)``.
            scores: Shape ``(n,)``. What scores NaN is left out.
            depth: As in ``from_scores``; None: as many as the query with most hits has, at least 1.

        Raises:
            InvalidInputError: If the shapes differ, a row is not a position in ``query_ids``,
                ``depth`` is below 1, an entry comes twice among those kept of a query, or a value
                is one that ``Run`` refuses.
        """
        row, entry = integers("rows", rows), integers("entry_ids", entry_ids)
        score = reals("scores", scores)
        if not row.shape == entry.shape == score.shape:
            got = f"{row.size} rows, {entry.size} entry_ids, {score.size} scores"
            raise InvalidInputError("rows, entry_ids, scores", "one of each for a hit", got)
        outside = (row < 0) | (row >= len(query_ids))
        if outside.any():
            expected = f"positions in {len(query_ids)} query_ids"
            raise InvalidInputError("rows", expected, str(row[outside][0]))
        by_query = np.argsort(row, kind="stable")
        entry, score = entry[by_query], score[by_query]
        counts = np.bincount(row, minlength=len(query_ids))
        offsets = [0, *np.cumsum(counts).tolist()]
        pieces = ((entry[a:b], score[a:b]) for a, b in pairwise(offsets))
        longest = int(counts.max(initial=1))
        return cls._ranked(query_ids, pieces, longest if depth is None else depth)

    @property
    def depth(self) -> int:
        """Number of columns."""
        return int(self.entry_ids.shape[1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of entries that each query has: int64, shape ``(m,)``."""
        return np.count_nonzero(self.entry_ids != PADDING, axis=1).astype(np.int64)

    def missing(self, query_ids: Sequence[str]) -> tuple[str, ...]:
        """Return those of some query ids that the run has not, in their order."""
        own = set(self.query_ids)
        return tuple(query_id for query_id in query_ids if query_id not in own)

    def aligned(self, query_ids: Sequence[str]) -> Run:
        """Return the run with exactly these queries, in this order.

        A query that the run has not gets a ranking without entries; one that is not asked for is
        left out.

        Raises:
            InvalidInputError: If ``checked_query_ids`` refuses the ids.
        """
        if tuple(query_ids) == self.query_ids:
            return self
        row_of = {query_id: row for row, query_id in enumerate(self.query_ids)}
        # The row behind the last one is the empty ranking.
        empty = len(self.query_ids)
        rows = np.array([row_of.get(query_id, empty) for query_id in query_ids], dtype=np.intp)
        entry_ids = np.pad(self.entry_ids, ((0, 1), (0, 0)), constant_values=PADDING)
        scores = np.pad(self.scores, ((0, 1), (0, 0)), constant_values=np.nan)
        return Run(tuple(query_ids), entry_ids[rows], scores[rows])

    @classmethod
    def _ranked(cls, query_ids: Sequence[str], pieces: Iterator[Hits], depth: int) -> Run:
        if depth < 1:
            raise InvalidInputError("depth", "a whole number from 1 on", str(depth))
        entry_ids = np.full((len(query_ids), depth), PADDING, np.int64)
        scores = np.full((len(query_ids), depth), np.nan)
        for row, (entry, score) in enumerate(pieces):
            best = order(score, entry, depth)
            entry_ids[row, : len(best)] = entry[best]
            scores[row, : len(best)] = score[best]
        return cls(tuple(query_ids), entry_ids, scores)

    def _check_shapes(self) -> None:
        shape = self.entry_ids.shape
        if shape != self.scores.shape or shape[0] != len(self.query_ids):
            got = f"{len(self.query_ids)} ids, {shape} and {self.scores.shape}"
            raise InvalidInputError(
                "query_ids, entry_ids, scores", "one row for each query, of one shape", got
            )

    def _check_padding(self) -> None:
        held = self.entry_ids >= 0
        self._refuse(self.entry_ids < PADDING, "ids from 0 on, or -1 as padding")
        self._refuse(held == np.isnan(self.scores), "a score with each entry, NaN with padding")
        late = np.zeros_like(held)
        late[:, 1:] = held[:, 1:] & ~held[:, :-1]
        self._refuse(late, "padding after the last entry only")

    def _check_duplicates(self) -> None:
        # Not an order of scores, so ranking.py need not own it: equal ids become neighbours.
        ids = np.sort(self.entry_ids, axis=1)
        twice = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] != PADDING)
        if twice.any():
            row, at = np.argwhere(twice)[0]
            got = f"entry {ids[row, at]} more than once for query {self.query_ids[row]!r}"
            raise InvalidInputError("entry_ids", "each entry once in a ranking", got)

    def _check_order(self) -> None:
        better, worse = self.scores[:, :-1], self.scores[:, 1:]
        tied_wrong = (better == worse) & (self.entry_ids[:, :-1] > self.entry_ids[:, 1:])
        wrong = np.zeros(self.scores.shape, dtype=bool)
        wrong[:, 1:] = (better < worse) | tied_wrong
        self._refuse(wrong, "best score first, equal scores by lower entry id")

    def _refuse(self, wrong: NDArray[np.bool_], expected: str) -> None:
        if wrong.any():
            row, at = np.argwhere(wrong)[0]
            entry, score = self.entry_ids[row, at], self.scores[row, at]
            got = f"entry {entry}, score {score} at rank {at + 1} of {self.query_ids[row]!r}"
            raise InvalidInputError("entry_ids, scores", expected, got, "Run.from_scores ranks.")
