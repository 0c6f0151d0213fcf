"""From a filter to the rows of the index that pass it, before anything is compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory.index import rows_of
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
    wanted = _Wanted(filter)
    if wanted.anything:
        passing[:] = False
        passing[rows_of(entry_ids, wanted.select(connection))] = True
    excluded = [i for i in filter.exclude_ids if _INT64.min <= i <= _INT64.max]
    passing[rows_of(entry_ids, np.array(excluded, dtype=np.int64))] = False
    return np.flatnonzero(passing).astype(np.int64)


class _Wanted:
    """A filter as SQL, without its excluded ids: numpy drops thousands of them faster."""

    def __init__(self, filter: Filter) -> None:
        self._conditions: list[tuple[str, list[Value]]] = []  # on entries
        self._queries: list[tuple[str, list[Value]]] = []  # for ids, on other tables
        if filter.stamp_from_ns is not None:
            self._conditions.append(("stamp_ns >= ?", [_clip(filter.stamp_from_ns)]))
        if filter.stamp_to_ns is not None:
            self._conditions.append(("stamp_ns <= ?", [_clip(filter.stamp_to_ns)]))
        self._any_of("episode_id", filter.episode_ids)
        self._any_of("outcome", [int(outcome) for outcome in filter.outcomes])
        self._any_of("frame_id", filter.frame_ids)
        self._all_of("tags", "tag IN (%s)", "?", [(tag,) for tag in set(filter.tags)])
        pairs = list(filter.metadata.items())
        self._all_of("metadata", "(key, value) IN (VALUES %s)", "(?, ?)", pairs)

    @property
    def anything(self) -> bool:
        return bool(self._conditions or self._queries)

    def select(self, connection: sqlite3.Connection) -> NDArray[np.int64]:
        parts = self._conditions + self._queries
        values = [value for _, values in parts for value in values]
        if len(values) > MAX_VALUES:
            raise InvalidInputError("filter", f"at most {MAX_VALUES} values", str(len(values)))
        # One text with all ids leaves SQLite several times faster than one row per id.
        query = f"SELECT group_concat(entry_id) FROM ({self._ids()})"
        text = connection.execute(query, values).fetchone()[0]
        return np.fromstring(text or "", dtype=np.int64, sep=",")

    def _ids(self) -> str:
        queries = [query for query, _ in self._queries]
        if not self._conditions:  # then the wide rows of entries need not be visited
            return " INTERSECT ".join(queries)
        conditions = [condition for condition, _ in self._conditions]
        conditions += [f"entry_id IN ({query})" for query in queries]
        return f"SELECT entry_id FROM entries WHERE {' AND '.join(conditions)}"

    def _any_of(self, column: str, values: Sequence[Value]) -> None:
        if values:
            places = ", ".join("?" * len(values))
            self._conditions.append((f"{column} IN ({places})", list(values)))

    def _all_of(self, table: str, test: str, place: str, rows: Sequence[tuple[Value, ...]]) -> None:
        """Require all rows. Counting them keeps the statement flat; SQLite limits its depth."""
        if rows:
            where = test % ", ".join([place] * len(rows))
            counted = f" GROUP BY entry_id HAVING count(*) = {len(rows)}" if rows[1:] else ""
            query = f"SELECT entry_id FROM {table} WHERE {where}{counted}"
            self._queries.append((query, [value for row in rows for value in row]))


def _clip(stamp_ns: int) -> int:
    return int(min(max(stamp_ns, _INT64.min), _INT64.max))
