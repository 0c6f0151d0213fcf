"""From the last format of the database to this one."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

OLD_FORMAT = 3
"""Embeddings in a table of their own, which cost each commit a page and a statement more."""

# Whatever a flipped bit made of a value: the columns take bytes and whole numbers alone.
_BYTES = "coalesce(CAST({} AS BLOB), x'')"
_WHOLE = "coalesce(CAST({} AS INTEGER), 0)"


def upgrade(connection: sqlite3.Connection) -> None:
    """Move embeddings into the rows of their entries, inside the caller's transaction.

    Checksums go along, so what is damaged stays damaged. A row that SQLite does not write again,
    because a value in it has another type than its column, is left without embeddings: it is named
    as damaged, as it was before.
    """
    for column, kind in (
        ("scene_checksum", "INTEGER NOT NULL DEFAULT 0"),
        ("instruction_checksum", "INTEGER NOT NULL DEFAULT 0"),
        ("scene_embedding", "BLOB NOT NULL DEFAULT x''"),
        ("instruction_embedding", "BLOB NOT NULL DEFAULT x''"),
    ):
        connection.execute(f"ALTER TABLE entries ADD COLUMN {column} {kind}")
    rows = connection.execute(
        f"SELECT {_WHOLE.format('scene_checksum')}, {_WHOLE.format('instruction_checksum')},"
        f" {_BYTES.format('scene')}, {_BYTES.format('instruction')}, entry_id FROM embeddings"
    )
    for row in rows:
        with suppress(sqlite3.IntegrityError):
            _move(connection, row)
    connection.execute("DROP TABLE embeddings")


def _move(connection: sqlite3.Connection, row: tuple[int, int, bytes, bytes, int]) -> None:
    connection.execute(
        "UPDATE entries SET scene_checksum = ?, instruction_checksum = ?, scene_embedding = ?,"
        " instruction_embedding = ? WHERE entry_id = ?",
        row,
    )
