"""From the last format of the database to this one."""

from __future__ import annotations

import sqlite3
from itertools import groupby
from operator import itemgetter

from vla_retrieval.memory import counters
from vla_retrieval.memory.labels import metadata_text, tags_text

OLD_FORMAT = 2
"""Tags and metadata in tables of their own, which cost each commit a page each; and AUTOINCREMENT,
which costs it another and stays, because only a new table can be without.
"""


def upgrade(connection: sqlite3.Connection) -> None:
    """Move tags and metadata into the rows of their entries, inside the caller's transaction.

    Checksums stay as they are: they cover what an entry says, not how it is kept. So a text that is
    damaged goes along as far as it is one: its entry differs from its checksum, as it did before.
    """
    for column in ("tags", "metadata"):
        connection.execute(f"ALTER TABLE entries ADD COLUMN {column} TEXT")
    tags = connection.execute(
        f"SELECT entry_id, {_bytes_of('tag')} FROM tags ORDER BY entry_id, position"
    )
    connection.executemany(
        "UPDATE entries SET tags = ? WHERE entry_id = ?",
        (
            (tags_text([_decoded(tag) for _, tag in rows]), entry_id)
            for entry_id, rows in groupby(tags, key=itemgetter(0))
        ),
    )
    pairs = connection.execute(
        f"SELECT entry_id, {_bytes_of('key')}, {_bytes_of('value')} FROM metadata"
        " ORDER BY entry_id, key"
    )
    connection.executemany(
        "UPDATE entries SET metadata = ? WHERE entry_id = ?",
        (
            (
                metadata_text({_decoded(key): _decoded(value) for _, key, value in rows}),
                entry_id,
            )
            for entry_id, rows in groupby(pairs, key=itemgetter(0))
        ),
    )
    for table in ("tags", "metadata"):
        connection.execute(f"DROP TABLE {table}")
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
    if row:
        counters.put(connection, counters.GIVEN_OUT, row[0])


def _bytes_of(column: str) -> str:
    """Return an expression for the bytes of a text, also where a flipped bit made it none."""
    return f"coalesce(CAST({column} AS BLOB), x'')"


def _decoded(content: bytes) -> str:
    return content.decode(errors="replace")
