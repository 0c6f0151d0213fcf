"""From the last format of the database to this one."""

from __future__ import annotations

import sqlite3

OLD_FORMAT = 3
"""Embeddings in a table of their own, which cost each commit a page and a statement more."""

_FROM_EMBEDDINGS = {
    "scene_checksum": "scene_checksum", "scene_embedding": "scene",
    "instruction_checksum": "instruction_checksum", "instruction_embedding": "instruction",
}  # fmt: skip
_NOTHING = {"TEXT": "''", "INTEGER": "0", "REAL": "0.0", "BLOB": "x''"}


def upgrade(connection: sqlite3.Connection, create_entries: str) -> None:
    """Write each entry anew with its embeddings, inside the caller's transaction.

    Checksums go along, so what is damaged stays damaged, also where a flipped bit made a value of
    another type, which the table would refuse: it is taken for what it would be in the right one.

    Args:
        connection: Without foreign keys, or dropping the old table would empty those of its
            children.
        create_entries: Makes the table in this format.
    """
    connection.execute(create_entries.replace("CREATE TABLE entries", "CREATE TABLE new_entries"))
    columns = connection.execute(
        "SELECT name, type, \"notnull\" FROM pragma_table_info('new_entries')"
    )
    values = {name: _value(name, kind, bool(must)) for name, kind, must in columns.fetchall()}
    connection.execute(
        f"INSERT INTO new_entries ({', '.join(values)}) SELECT {', '.join(values.values())}"
        " FROM entries LEFT JOIN embeddings USING (entry_id) ORDER BY entry_id"
    )
    for table in ("embeddings", "entries"):
        connection.execute(f"DROP TABLE {table}")
    # In this order: where the old table is renamed, its children go on to belong to that.
    connection.execute("ALTER TABLE new_entries RENAME TO entries")


def _value(column: str, kind: str, must_be: bool) -> str:
    """Return an expression for a value that a column takes, whatever is there."""
    if column == "entry_id":
        return "entries.entry_id"
    source = _FROM_EMBEDDINGS.get(column)
    there = f"embeddings.{source}" if source else f"entries.{column}"
    value = f"CAST({there} AS {kind})"
    return f"coalesce({value}, {_NOTHING[kind]})" if must_be else value
