"""Qrels: which entries are relevant to which query, and how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.arrays import integers
from vla_retrieval.evaluation.query_ids import checked_query_ids

MAX_GRADE = 50
"""Highest grade: its gain ``2**50 - 1`` is still exact in float64."""


@dataclass(frozen=True, eq=False)
class Qrels:
    """Relevant entries of ``m`` queries, row by row (CSR). What is not in it is not relevant.

    The arrays are read-only. A query may have no relevant entry.

    Attributes:
        query_ids: ``m`` different ids, as ``checked_query_ids`` takes them.
        offsets: Int64, shape ``(m + 1,)``: query ``i`` has the elements from ``offsets[i]`` to
            before ``offsets[i + 1]`` of the other two.
        entry_ids: Int64, from 0 on, ascending within a query, each once.
        grades: Int64, same shape, from 1 to ``MAX_GRADE``; 1 where relevance is yes or no.

    Raises:
        InvalidInputError: If any of this does not hold.
    """

    query_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    entry_ids: NDArray[np.int64]
    grades: NDArray[np.int64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_ids", checked_query_ids(self.query_ids))
        for name in ("offsets", "entry_ids", "grades"):
            object.__setattr__(self, name, integers(name, getattr(self, name)))
        self._check_shapes()
        self._check_values()

    @classmethod
    def from_pairs(
        cls,
        query_ids: Sequence[str],
        rows: ArrayLike,
        entry_ids: ArrayLike,
        grades: ArrayLike | None = None,
    ) -> Qrels:
        """Make qrels from pairs of a query and an entry, in any order.

        Args:
            query_ids: ``m`` ids.
            rows: Integers, shape ``(n,)``: position in ``query_ids`` of each pair's query.
            entry_ids: Integers, shape ``(n,)``.
            grades: Integers, shape ``(n,)``; None: all 1.

        Raises:
            InvalidInputError: If the shapes differ, a row is not a position in ``query_ids``, a
                pair comes twice, or a value is one that ``Qrels`` refuses.
        """
        row, entry = integers("rows", rows), integers("entry_ids", entry_ids)
        grade = integers("grades", np.ones(row.shape, np.int64) if grades is None else grades)
        if not row.shape == entry.shape == grade.shape:
            got = f"{row.size} rows, {entry.size} entry_ids, {grade.size} grades"
            raise InvalidInputError("rows, entry_ids, grades", "one of each for a pair", got)
        outside = (row < 0) | (row >= len(query_ids))
        if outside.any():
            expected = f"positions in {len(query_ids)} query_ids"
            raise InvalidInputError("rows", expected, str(row[outside][0]))
        by_query = np.lexsort((entry, row))
        offsets = np.zeros(len(query_ids) + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=len(query_ids)), out=offsets[1:])
        return cls(tuple(query_ids), offsets, entry[by_query], grade[by_query])

    @classmethod
    def from_mapping(cls, grades: Mapping[str, Mapping[int, int]]) -> Qrels:
        """Make qrels from query id to entry id to grade, for example ``{"q1": {7: 1}, "q2": {}}``.

        Raises:
            InvalidInputError: If a value is one that ``Qrels`` refuses.
        """
        pairs = [(r, e, g) for r, of in enumerate(grades.values()) for e, g in of.items()]
        rows, entry_ids, found = zip(*pairs, strict=True) if pairs else ((), (), ())
        return cls.from_pairs(tuple(grades), rows, entry_ids, found)

    @property
    def relevant(self) -> NDArray[np.int64]:
        """Number of relevant entries of each query: int64, shape ``(m,)``."""
        return np.diff(self.offsets)

    @property
    def answerable(self) -> tuple[str, ...]:
        """Ids of the queries that have a relevant entry, in their order."""
        return tuple(q for q, count in zip(self.query_ids, self.relevant, strict=True) if count)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Position in ``query_ids`` of each element of ``entry_ids``: int64, ascending."""
        return np.repeat(np.arange(len(self.query_ids)), self.relevant)

    def only(self, query_ids: Sequence[str]) -> Qrels:
        """Return the qrels of some of these queries, in the order of the ids.

        Raises:
            InvalidInputError: If one is not among them, or comes twice.
        """
        row_of = {query_id: row for row, query_id in enumerate(self.query_ids)}
        if unknown := [query_id for query_id in query_ids if query_id not in row_of]:
            raise InvalidInputError("query_ids", "queries of these qrels", repr(unknown[0]))
        parts = [np.arange(self.offsets[row_of[q]], self.offsets[row_of[q] + 1]) for q in query_ids]
        places = np.concatenate(parts) if parts else np.empty(0, np.int64)
        offsets = np.cumsum([0, *map(len, parts)])
        ids = tuple(query_ids)
        return Qrels(ids, offsets, self.entry_ids[places], self.grades[places])

    def _check_shapes(self) -> None:
        offsets, size, m = self.offsets, self.entry_ids.size, len(self.query_ids)
        if offsets.size != m + 1 or offsets[0] != 0 or offsets[-1] != size:
            expected = f"{m + 1} numbers from 0 to {size} for {m} queries with {size} entry_ids"
            got = f"{offsets.size} numbers from {offsets[:1]} to {offsets[-1:]}"
            raise InvalidInputError("offsets", expected, got)
        if (np.diff(offsets) < 0).any():
            raise InvalidInputError("offsets", "ascending numbers", "a number below the one before")
        if self.grades.size != size:
            got = f"{self.grades.size} for {size} entry_ids"
            raise InvalidInputError("grades", "one for each of entry_ids", got)

    def _check_values(self) -> None:
        entry_ids, grades, rows = self.entry_ids, self.grades, self.rows
        if entry_ids.size and entry_ids.min() < 0:
            raise InvalidInputError("entry_ids", "numbers from 0 on", str(entry_ids.min()))
        wrong = np.flatnonzero((grades < 1) | (grades > MAX_GRADE))
        if wrong.size:
            raise InvalidInputError(
                "grades", f"numbers from 1 to {MAX_GRADE}",
                f"{grades[wrong[0]]} for query {self.query_ids[rows[wrong[0]]]!r}",
                "Leave out what is not relevant.",
            )  # fmt: skip
        wrong = np.flatnonzero((rows[1:] == rows[:-1]) & (entry_ids[1:] <= entry_ids[:-1])) + 1
        if wrong.size:
            at = wrong[0]
            got = f"{entry_ids[at]} after {entry_ids[at - 1]} in {self.query_ids[rows[at]]!r}"
            raise InvalidInputError("entry_ids", "each once, ascending within a query", got)
