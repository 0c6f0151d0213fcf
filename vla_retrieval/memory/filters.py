"""From a filter to the rows of the index that pass it, before anything is compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import Filter

MAX_VALUES = 30_000
"""Most values that a filter may name, exclude_ids aside; SQLite takes 32,766 in a statement."""

_INT64 = np.iinfo(np.int64)

Value = str | int


def eligible_rows(
    connection: sqlite3.Connection, filter: Filter, entry_ids: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Return which rows of the index a query may find.

    Args:
        connection: To read from. It may be ahead of the index: only entries that both hold are
            eligible, and entries never change.
        filter: What must hold.
        entry_ids: Of the index's rows, ascending.

    Returns:
        Row numbers, ascending, or None for all.

    Raises:
        InvalidInputError: If the filter names more than ``MAX_VALUES`` values.
    """
    if filter.passes_all:
        return None
    passing = np.ones(len(entry_ids), dtype=bool)
    where = _Where(filter)
    if where.clauses:
        passing = np.isin(entry_ids, where.select(connection), kind="sort")
    excluded = [i for i in filter.exclude_ids if _INT64.min <= i <= _INT64.max]
    if excluded:
        passing &= ~np.isin(entry_ids, np.array(excluded, dtype=np.int64), kind="sort")
    return np.flatnonzero(passing).astype(np.int64)


class _Where:
    """A filter as SQL, without its excluded ids: numpy drops thousands of them faster."""

    def __init__(self, filter: Filter) -> None:
        self.clauses: list[str] = []
        self._values: list[Value] = []
        if filter.stamp_from_ns is not None:
            self._add("stamp_ns >= ?", [_clip(filter.stamp_from_ns)])
        if filter.stamp_to_ns is not None:
            self._add("stamp_ns <= ?", [_clip(filter.stamp_to_ns)])
        self._any_of("episode_id", filter.episode_ids)
        self._any_of("outcome", [int(outcome) for outcome in filter.outcomes])
        self._any_of("frame_id", filter.frame_ids)
        self._all_of("tags", "tag IN", "?", [(tag,) for tag in set(filter.tags)])
        self._all_of("metadata", "(key, value) IN", "(?, ?)", list(filter.metadata.items()))

    def select(self, connection: sqlite3.Connection) -> NDArray[np.int64]:
        if len(self._values) > MAX_VALUES:
            raise InvalidInputError(
                "filter", f"at most {MAX_VALUES} values", str(len(self._values))
            )
        # One text with all ids leaves SQLite several times faster than one row per id.
        query = f"SELECT group_concat(entry_id) FROM entries WHERE {' AND '.join(self.clauses)}"
        text = connection.execute(query, self._values).fetchone()[0]
        return np.fromstring(text or "", dtype=np.int64, sep=",")

    def _add(self, clause: str, values: Iterable[Value]) -> None:
        self.clauses.append(clause)
        self._values.extend(values)

    def _any_of(self, column: str, values: Sequence[Value]) -> None:
        if values:
            self._add(f"{column} IN ({', '.join('?' * len(values))})", values)

    def _all_of(self, table: str, test: str, place: str, rows: Sequence[tuple[Value, ...]]) -> None:
        """Require all rows. Counting them keeps the statement flat; SQLite limits its depth."""
        if rows:
            places = ", ".join([place] * len(rows))
            values = f"VALUES {places}" if place.startswith("(") else places
            counted = f" GROUP BY entry_id HAVING count(*) = {len(rows)}" if rows[1:] else ""
            self._add(
                f"entry_id IN (SELECT entry_id FROM {table} WHERE {test} ({values}){counted})",
                [value for row in rows for value in row],
            )


def _clip(stamp_ns: int) -> int:
    return int(min(max(stamp_ns, _INT64.min), _INT64.max))
