"""Numbers that the memory keeps about itself, in the database."""

from __future__ import annotations

import sqlite3

from vla_retrieval.errors import MemoryFormatError

REMOVED = "sequence"
"""Entries that were removed, ever. Once it counted commits, hence its name."""

GIVEN_OUT = "given_out"
"""The last id that was given out, noted when its entry is removed."""

MERGED = "merged"
"""Near-duplicates that were counted and not stored."""

EVICTED = "evicted"
"""Entries that were removed to keep within bounds."""

EVICTED_OVER_ENTRIES, EVICTED_OVER_BYTES = "evicted over max_entries", "evicted over max_bytes"
"""The same by the bound that was passed; what went before this was counted is in neither."""

SNAPSHOT, SNAPSHOT_BEFORE = "snapshot", "snapshot_before"
"""The random marks of the newest snapshot and of the one before it. A snapshot with another mark is
of another history: somebody put an older copy of the database back beside it."""

FINGERPRINT = "fingerprint"
"""The checksum of the fingerprint's text."""

NAMES = frozenset(
    {
        REMOVED, GIVEN_OUT, MERGED, EVICTED, EVICTED_OVER_ENTRIES, EVICTED_OVER_BYTES, SNAPSHOT,
        SNAPSHOT_BEFORE, FINGERPRINT,
    }
)  # fmt: skip
"""All there are."""

_FAR = 1 << 32
"""More ids than a memory gives out in its life."""


def increase(connection: sqlite3.Connection, name: str, by: int = 1) -> int:
    """Add to a counter, which starts at 0, and return what it is then."""
    row = connection.execute(
        "INSERT INTO counters VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value RETURNING value",
        (name, by),
    ).fetchone()
    return int(row[0])


def put(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Set a counter."""
    connection.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (name, value))


def read(connection: sqlite3.Connection, name: str) -> int:
    """Return a counter.

    Raises:
        MemoryFormatError: If a flipped bit left no number.
    """
    row = connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return _whole(name, row[0]) if row else 0


def last_given_out(connection: sqlite3.Connection, schema: str = "main") -> int:
    """Return the highest id that an entry of a database ever had, or 0.

    Raises:
        MemoryFormatError: As ``read`` does.
    """
    row = connection.execute(
        f"SELECT max(coalesce((SELECT max(entry_id) FROM {schema}.entries), 0),"
        f" coalesce((SELECT value FROM {schema}.counters WHERE name = ?), 0))",
        (GIVEN_OUT,),
    ).fetchone()
    return _whole(GIVEN_OUT, row[0])


def sequence(connection: sqlite3.Connection) -> int:
    """Return how many entries were added and removed, ever: it grows with each such commit.

    A snapshot of the index names the commit that it shows by it. What was added is the last id
    that was given out, so that a commit which adds does not write a counter as well.
    """
    return last_given_out(connection) + read(connection, REMOVED)


def drop_impossible(connection: sqlite3.Connection) -> None:
    """Remove what is no count of this memory, inside the caller's transaction.

    What is missed begins anew. How far ids had been given out is not known then: they go on far
    above, so that none is given out twice.
    """
    known = ", ".join("?" * len(NAMES))
    connection.execute(
        f"DELETE FROM counters WHERE name NOT IN ({known}) OR typeof(value) <> 'integer'"
        " OR value < 0 OR name IS NULL", tuple(NAMES),
    )  # fmt: skip
    put(connection, GIVEN_OUT, last_given_out(connection) + _FAR)


def _whole(name: str, value: object) -> int:
    if isinstance(value, int):
        return value
    raise MemoryFormatError(
        f"the counter {name!r} of this memory is damaged: expected a whole number, got {value!r}."
        " Restore the directory from a copy; memory check names what else is."
    )
