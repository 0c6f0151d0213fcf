"""The calibration that is stored with a memory: one text, or none. Its meaning is not known here.

Every function works inside a transaction that its caller opened.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from pathlib import Path

from vla_retrieval.errors import MemoryFormatError

_log = logging.getLogger(__name__)


def write(connection: sqlite3.Connection, text: str | None) -> None:
    """Store a text in place of the one before; None leaves none."""
    connection.execute("DELETE FROM calibration")
    if text is not None:
        checksum = zlib.crc32(text.encode())
        connection.execute("INSERT INTO calibration VALUES (?, ?)", (text, checksum))


def read(connection: sqlite3.Connection) -> str | None:
    """Return the text, or None where there is none.

    Raises:
        MemoryFormatError: If it differs from its checksum.
    """
    # As bytes: where a flipped bit made it no text, SQLite would fail before the checksum tells.
    query = "SELECT CAST(value AS BLOB), checksum FROM calibration"
    row = connection.execute(query).fetchone()
    if row is None:
        return None
    content, checksum = row
    if content is None or zlib.crc32(content) != checksum:
        raise MemoryFormatError(
            "the calibration differs from its checksum. Make it anew: memory calibrate."
        )
    return str(content, "utf-8")


def read_if_sound(connection: sqlite3.Connection, directory: Path) -> str | None:
    """Return the text, or None where it is damaged: the entries are of use without it."""
    try:
        return read(connection)
    except MemoryFormatError as error:
        _log.warning("%s: %s", directory, error)
        return None
