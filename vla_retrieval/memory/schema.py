"""The database's format: what makes a file ours, and its tables."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

from vla_retrieval.errors import MemoryFormatError, MemoryMismatchError
from vla_retrieval.memory import counters, upgrading
from vla_retrieval.types import Fingerprint

APPLICATION_ID = 0x564C4152  # "VLAR"
FORMAT = 5

_SAME_TABLES = 4
"""The format before, which is read as it is: no checksum covers the fingerprint or entries' ids."""

# An entry and its embeddings are one row, so that storing it writes the fewest pages. Embeddings
# come last: who reads entries alone does not read past them. Thumbnails, which are larger and not
# always there, have a table of their own. There is no AUTOINCREMENT, which writes a page of its own
# in each commit: only when the last entry goes, its id is noted (counters.GIVEN_OUT) and not given
# out again. There is no index on what filters ask: that is answered in RAM (columns.py), and each
# one would slow every commit down; so would tables of their own for tags and metadata, which are
# JSON, or NULL where there are none.
# The checksums are CRC-32; that of an entry covers its row up to the pose, its tags and metadata.
# That of the fingerprint is a counter.
_TABLES = """
CREATE TABLE fingerprint (
    value TEXT NOT NULL
) STRICT;
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE calibration (
    value TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE entries (
    entry_id INTEGER PRIMARY KEY,
    instruction TEXT NOT NULL,
    stamp_ns INTEGER NOT NULL,
    frame_id TEXT NOT NULL,
    episode_id TEXT NOT NULL,
    outcome INTEGER NOT NULL,
    action_space TEXT,
    action_shape TEXT,
    action_values BLOB,
    pose_frame_id TEXT,
    pose_stamp_ns INTEGER,
    pose_x REAL, pose_y REAL, pose_z REAL,
    pose_qx REAL, pose_qy REAL, pose_qz REAL, pose_qw REAL,
    checksum INTEGER NOT NULL,
    pinned INTEGER NOT NULL,
    merged INTEGER NOT NULL,
    tags TEXT,
    metadata TEXT,
    scene_checksum INTEGER NOT NULL,
    instruction_checksum INTEGER NOT NULL,
    scene_embedding BLOB NOT NULL,
    instruction_embedding BLOB NOT NULL
) STRICT;
CREATE TABLE thumbnails (
    entry_id INTEGER PRIMARY KEY REFERENCES entries ON DELETE CASCADE,
    jpeg BLOB NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE usage (
    entry_id INTEGER PRIMARY KEY REFERENCES entries ON DELETE CASCADE,
    uses INTEGER NOT NULL
) STRICT;
"""


def is_new(connection: sqlite3.Connection) -> bool:
    """Return whether the database holds nothing: just made, or killed while it was made."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return tables == 0 and _pragma(connection, "application_id") == 0


def create(connection: sqlite3.Connection, fingerprint: Fingerprint) -> None:
    """Make the tables, inside the caller's transaction."""
    _make_tables(connection)
    write_fingerprint(connection, fingerprint)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    mark(connection)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the database is ours and readable by this version.

    What it holds is checked when it is read, by checksums, and whole by ``memory check``.

    Raises:
        MemoryFormatError: If it is not.
    """
    application = _pragma(connection, "application_id")
    if application != APPLICATION_ID:
        raise MemoryFormatError(
            f"{path} belongs to another program: expected application_id {APPLICATION_ID:#x},"
            f" got {application:#x}. Give a directory that is empty or does not exist."
        )
    version = _pragma(connection, "user_version")
    if version == upgrading.OLD_FORMAT:
        raise MemoryFormatError(
            f"{path}: expected format {FORMAT}, got format {version}."
            " Open it once to write, with a node for example: that brings it to this format."
        )
    if version not in (FORMAT, _SAME_TABLES):
        raise MemoryFormatError(
            f"{path}: expected format {FORMAT}, got format {version}."
            " Open it with the version of vla_retrieval that wrote it."
        )


def strange_tables(connection: sqlite3.Connection) -> list[str]:
    """Return what of the tables' definitions is not as ``create`` makes them.

    SQLite takes any name for a good one: a flipped bit in that of a column makes every row that
    is read by it look damaged.
    """
    found = []
    with closing(sqlite3.connect(":memory:")) as made:
        _make_tables(made)
        for (table,) in made.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            expected, got = (_definition(c, table) for c in (made, connection))
            if expected != got:
                found.append(
                    f"the table {table}: expected {sorted(expected - got)}, got"
                    f" {sorted(got - expected)}"
                )
    return found


def is_of_the_format_before(connection: sqlite3.Connection) -> bool:
    """Return whether the database is ours, of the format that ``mark`` takes."""
    return (
        _pragma(connection, "application_id") == APPLICATION_ID
        and _pragma(connection, "user_version") == _SAME_TABLES
    )


def mark(connection: sqlite3.Connection) -> None:
    """Say that a database is of this format, inside the caller's transaction.

    An older version of this package refuses it from then on: it would take checksums that it does
    not know for damage.
    """
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def is_old(connection: sqlite3.Connection) -> bool:
    """Return whether the database is ours, of the format that ``upgrade`` takes."""
    return (
        _pragma(connection, "application_id") == APPLICATION_ID
        and _pragma(connection, "user_version") == upgrading.OLD_FORMAT
    )


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring a database for which ``is_old`` holds to this format, inside the caller's transaction.

    Foreign keys are off. An older version of this package refuses it from then on.
    """
    (entries,) = (text for text in _TABLES.split(";\n") if " entries (" in text)
    upgrading.upgrade(connection, entries)
    mark(connection)


def write_fingerprint(connection: sqlite3.Connection, fingerprint: Fingerprint) -> None:
    """Write the fingerprint and its checksum, inside the caller's transaction."""
    connection.execute("DELETE FROM fingerprint")
    connection.execute("INSERT INTO fingerprint VALUES (?)", (_text(fingerprint),))
    counters.put(connection, counters.FINGERPRINT, _checksum(_text(fingerprint)))


def stored_fingerprint(
    connection: sqlite3.Connection, path: Path, given: Fingerprint | None = None
) -> Fingerprint:
    """Return the fingerprint that the memory was made with.

    Args:
        connection: To the database.
        path: Of the database.
        given: Is the one, if the stored one is damaged and this has its checksum.

    Raises:
        MemoryFormatError: If it is damaged.
    """
    row = connection.execute("SELECT value FROM fingerprint").fetchone()
    checksum = _stored_checksum(connection)
    try:
        if checksum and _checksum(row[0]) != checksum:
            raise ValueError("it differs from its checksum")
        return Fingerprint(**json.loads(row[0]))
    except (TypeError, ValueError, AttributeError) as error:
        if given is not None and (row == (_text(given),) or _checksum(_text(given)) == checksum):
            return given
        raise MemoryFormatError(
            f"{path} is damaged: its fingerprint {row!r}: {error}. Nothing else need be: open it to"
            " write with the encoder that it was made with, for example by starting the node with"
            " that model, which writes it anew. Or restore the directory from a copy."
        ) from error


def is_whole(connection: sqlite3.Connection, fingerprint: Fingerprint) -> bool:
    """Return whether what is stored of it is whole: text and checksum, as they are written now."""
    row = connection.execute("SELECT value FROM fingerprint").fetchone()
    text = _text(fingerprint)
    return row == (text,) and _stored_checksum(connection) == _checksum(text)


def _stored_checksum(connection: sqlite3.Connection) -> int:
    """Return it, or 0 where it is no number, or the memory is of a version that kept none."""
    try:
        return counters.read(connection, counters.FINGERPRINT)
    except MemoryFormatError:
        return 0


def _text(fingerprint: Fingerprint) -> str:
    return json.dumps(dataclasses.asdict(fingerprint))


def _checksum(text: str) -> int:
    return zlib.crc32(text.encode())


def check_fingerprint(stored: Fingerprint, given: Fingerprint, path: Path) -> None:
    """Check that the memory holds embeddings of the given encoder.

    Raises:
        MemoryMismatchError: If not, with both sides in full.
    """
    if stored == given:
        return
    was, now = dataclasses.asdict(stored), dataclasses.asdict(given)
    different = [name for name in was if was[name] != now[name]]
    raise MemoryMismatchError(
        f"{path} was made with another encoder; different: {', '.join(different)}.\n"
        f"  expected, as given:  {_in_full(now)}\n"
        f"  got, in the memory:  {_in_full(was)}\n"
        "Start with the model and weights of the memory, or give another memory directory, or"
        " make a memory for this model from this one: memory reembed."
    )


def damaged(path: Path, what: str) -> MemoryFormatError:
    """Return the error for a database that contradicts itself."""
    return MemoryFormatError(
        f"{path} is damaged: {what}. `memory check` names all that is, and with --drop-damaged"
        " removes it. Or restore the directory from a copy."
    )


def _in_full(fingerprint: dict[str, object]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in fingerprint.items())


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)


def _definition(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return a table's columns and what they refer to, in any order: one text for each."""
    columns = connection.execute(f"PRAGMA table_info({table})")
    references = connection.execute(f"PRAGMA foreign_key_list({table})")
    return {str(row[1:]) for rows in (columns, references) for row in rows}


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
