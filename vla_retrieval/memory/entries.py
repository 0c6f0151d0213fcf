"""Entries in SQLite: the truth of the memory.

Every function works inside a transaction that its caller opened, or of one statement.
"""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import EntryNotFoundError, MemoryFormatError
from vla_retrieval.memory import counters
from vla_retrieval.memory.rows import COLUMNS, to_entry, to_row
from vla_retrieval.memory.schema import damaged
from vla_retrieval.types import Embeddings, Entry, Modality, NewEntry

_IDS_AT_ONCE = 1024  # a power of two; SQLite takes 32,766 values in a statement
_ROWS_AT_ONCE = 256  # a few milliseconds, in which Python lets nobody else run
_FLOAT32 = np.dtype("<f4")
_INT64 = np.iinfo(np.int64)

_EMBEDDINGS = "scene_checksum, instruction_checksum, scene_embedding, instruction_embedding"
_INSERT_ENTRY = (
    f"INSERT INTO entries ({COLUMNS}, {_EMBEDDINGS})"
    f" VALUES ({', '.join('?' * len(f'{COLUMNS}, {_EMBEDDINGS}'.split(',')))})"
)
_INSERT_THUMBNAIL = "INSERT INTO thumbnails (entry_id, jpeg, checksum) VALUES (?, ?, ?)"


class Portion(NamedTuple):
    """Some entries as they come out of the database, ascending by id.

    Attributes:
        entries: Without thumbnails.
        scenes: Shape ``(n, dim)``.
        instructions: Shape ``(n, dim)``.
    """

    entries: list[Entry]
    scenes: Embeddings
    instructions: Embeddings

    @property
    def entry_ids(self) -> list[int]:
        """Theirs."""
        return [entry.entry_id for entry in self.entries]


def insert(
    connection: sqlite3.Connection,
    entry_ids: Sequence[int],
    entries: Sequence[NewEntry],
    scenes: Embeddings,
    instructions: Embeddings,
) -> None:
    """Write entries under new ids, with their embeddings, shape ``(n, dim)`` each, in C order."""
    rows = (
        (*to_row(entry_id, entry), *embeddings)
        for entry_id, entry, embeddings in zip(
            entry_ids, entries, _values(scenes, instructions), strict=True
        )
    )
    if len(entry_ids) == 1:  # executemany makes a cursor first
        connection.execute(_INSERT_ENTRY, *rows)
    else:
        connection.executemany(_INSERT_ENTRY, rows)
    for entry_id, entry in zip(entry_ids, entries, strict=True):
        if entry.thumbnail:
            jpeg = bytes(entry.thumbnail)
            connection.execute(_INSERT_THUMBNAIL, (entry_id, jpeg, zlib.crc32(jpeg)))


def in_one_statement(entries: Sequence[NewEntry]) -> bool:
    """Return whether ``insert`` writes entries with a single statement."""
    return len(entries) == 1 and not entries[0].thumbnail


def copy(
    connection: sqlite3.Connection,
    schema: str,
    entry_ids: Sequence[int],
    scenes: Embeddings,
    instructions: Embeddings,
) -> None:
    """Copy entries from an attached database, with other embeddings, shape ``(n, dim)`` each."""
    values = _values(*map(np.ascontiguousarray, (scenes, instructions)))
    connection.executemany(
        f"INSERT INTO main.entries ({COLUMNS}, {_EMBEDDINGS})"
        f" SELECT {COLUMNS}, ?, ?, ?, ? FROM {schema}.entries WHERE entry_id = ?",
        ((*given, int(entry_id)) for entry_id, given in zip(entry_ids, values, strict=True)),
    )


def _values(
    scenes: Embeddings, instructions: Embeddings
) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """Yield the values of the columns of embeddings, for each row; they are in C order."""
    if sys.byteorder != "little":
        scenes, instructions = scenes.astype(_FLOAT32), instructions.astype(_FLOAT32)
    for scene, instruction in zip(scenes, instructions, strict=True):
        one, other = scene.data, instruction.data
        yield zlib.crc32(one), zlib.crc32(other), one, other


def delete(connection: sqlite3.Connection, entry_ids: Sequence[int]) -> int:
    """Delete entries and all that belongs to them; return how many different ones they were.

    Raises:
        EntryNotFoundError: If one does not exist; then the caller must roll back.
    """
    found: set[int] = set()
    last = counters.last_given_out(connection)
    for some, places in _in_groups(entry_ids):
        where = f"WHERE entry_id IN ({places})"
        found.update(
            i for (i,) in connection.execute(f"SELECT entry_id FROM entries {where}", some)
        )
        connection.execute(f"DELETE FROM entries {where}", some)  # the rest cascades
    check_found(entry_ids, found)
    if last in found:
        counters.put(connection, counters.GIVEN_OUT, last)
    return len(found)


def read(
    connection: sqlite3.Connection,
    entry_ids: Sequence[int],
    *,
    thumbnails: bool,
    path: Path,
    field: str = "entry_ids",
) -> list[Entry]:
    """Return entries in the order of their ids; errors name the field that the ids came in.

    Raises:
        EntryNotFoundError: If one does not exist; it names all that do not.
        MemoryFormatError: If one differs from its checksum.
    """
    found: dict[int, Entry] = {}
    for some, places in _in_groups(entry_ids):
        found.update(_read_where(connection, f"entry_id IN ({places})", some, path))
    check_found(entry_ids, found.keys(), field)
    if thumbnails:
        for entry_id, jpeg in read_thumbnails(connection, entry_ids, path):
            found[entry_id] = dataclasses.replace(found[entry_id], thumbnail=jpeg)
    return [found[i] for i in map(int, entry_ids)]


def read_thumbnails(
    connection: sqlite3.Connection, entry_ids: Sequence[int], path: Path
) -> Iterator[tuple[int, bytes]]:
    """Yield the thumbnails of those entries that have one, with their ids.

    Raises:
        MemoryFormatError: If one differs from its checksum.
    """
    for some, places in _in_groups(entry_ids):
        query = f"SELECT entry_id, jpeg, checksum FROM thumbnails WHERE entry_id IN ({places})"
        for entry_id, jpeg, checksum in connection.execute(query, some):
            if not isinstance(jpeg, bytes) or zlib.crc32(jpeg) != checksum:
                raise damaged(path, f"entry {entry_id}: its thumbnail differs from its checksum")
            yield entry_id, jpeg


def read_embeddings(
    connection: sqlite3.Connection,
    entry_ids: Sequence[int],
    modality: Modality,
    dim: int,
    path: Path,
) -> tuple[NDArray[np.int64], Embeddings]:
    """Return one half of the embeddings of those entries that exist.

    Returns:
        Their ids, ascending, shape ``(n,)``, and shape ``(n, dim)``.

    Raises:
        MemoryFormatError: If the stored bytes are damaged.
    """
    half = modality.value
    rows: list[tuple[int, bytes, int]] = []
    for some, places in _in_groups(entry_ids):
        query = f"SELECT entry_id, {half}_embedding, {half}_checksum FROM entries"
        rows += connection.execute(f"{query} WHERE entry_id IN ({places})", some)
    rows.sort()
    return np.array([row[0] for row in rows], dtype=np.int64), _to_vectors(rows, half, dim, path)


def read_portions(
    connection: sqlite3.Connection, dim: int, path: Path, after: int = 0
) -> Iterator[Portion]:
    """Yield all entries above an id with their embeddings, ascending.

    Raises:
        MemoryFormatError: If the stored bytes are damaged.
    """
    while True:
        rows = connection.execute(
            f"SELECT {COLUMNS}, {_EMBEDDINGS} FROM entries WHERE entry_id > ?"
            " ORDER BY entry_id LIMIT ?",
            (after, _ROWS_AT_ONCE),
        ).fetchall()
        if not rows:
            break
        ids = [after, *(row[0] for row in rows)]
        # A page in the place of another: asked for what comes after its last row, SQLite would
        # give the same rows again and again.
        if any(one >= other for one, other in itertools.pairwise(ids)):
            raise _in_disorder(path)
        after = ids[-1]
        entries = [to_entry(row[:-4], path) for row in rows]
        scenes = _to_vectors([(row[0], row[-2], row[-4]) for row in rows], "scene", dim, path)
        texts = _to_vectors([(row[0], row[-1], row[-3]) for row in rows], "instruction", dim, path)
        yield Portion(entries, scenes, texts)


def all_ids_in_order(connection: sqlite3.Connection, path: Path) -> NDArray[np.int64]:
    """Return the id of every entry, ascending, each once.

    Raises:
        MemoryFormatError: If the rows are out of their order.
    """
    ids = all_ids(connection)
    if (ids[:-1] >= ids[1:]).any():
        raise _in_disorder(path)
    return ids


def all_ids(connection: sqlite3.Connection) -> NDArray[np.int64]:
    """Return the id of every entry, in the order of the rows: ascending, unless that is damaged."""
    # One text with all ids leaves SQLite several times faster than one row per id.
    query = "SELECT group_concat(entry_id) FROM (SELECT entry_id FROM entries ORDER BY entry_id)"
    text = connection.execute(query).fetchone()[0]
    return np.fromstring(text or "", dtype=np.int64, sep=",")


def _in_disorder(path: Path) -> MemoryFormatError:
    return damaged(path, "its entries are not in the order of their ids: a page is another's")


def count(connection: sqlite3.Connection) -> int:
    """Return the number of entries."""
    return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


def pin(connection: sqlite3.Connection, entry_ids: Sequence[int], *, pinned: bool) -> None:
    """Say whether entries may be evicted.

    Raises:
        EntryNotFoundError: If one does not exist; then the caller must roll back.
    """
    found: set[int] = set()
    for some, places in _in_groups(entry_ids):
        query = f"UPDATE entries SET pinned = ? WHERE entry_id IN ({places}) RETURNING entry_id"
        found.update(i for (i,) in connection.execute(query, [int(pinned), *some]))
    check_found(entry_ids, found)


def pinned_ids(connection: sqlite3.Connection) -> NDArray[np.int64]:
    """Return the ids of pinned entries, ascending."""
    rows = connection.execute("SELECT entry_id FROM entries WHERE pinned ORDER BY entry_id")
    return np.array([i for (i,) in rows], dtype=np.int64)


def count_merged(connection: sqlite3.Connection, entry_id: int) -> None:
    """Count one near-duplicate that an entry stands for."""
    connection.execute("UPDATE entries SET merged = merged + 1 WHERE entry_id = ?", (entry_id,))


def read_uses(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return how often entries were matched, by id; those that never were are left out."""
    return connection.execute("SELECT entry_id, uses FROM usage").fetchall()


def add_uses(connection: sqlite3.Connection, uses: Mapping[int, int]) -> None:
    """Count matches of entries; those that were removed since are left out."""
    connection.executemany(
        "INSERT INTO usage SELECT entry_id, ? FROM entries WHERE entry_id = ?"
        " ON CONFLICT (entry_id) DO UPDATE SET uses = uses + excluded.uses",
        [(count, entry_id) for entry_id, count in uses.items()],
    )


def _read_where(
    connection: sqlite3.Connection, where: str, values: Sequence[int], path: Path
) -> dict[int, Entry]:
    """Return entries by id, ascending, without thumbnails."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM entries WHERE {where} ORDER BY entry_id", values
    )
    return {row[0]: to_entry(row, path) for row in rows}


def _to_vectors(
    rows: Sequence[tuple[int, bytes, int]], half: str, dim: int, path: Path
) -> Embeddings:
    """Return embeddings, shape ``(n, dim)``, from their ids, bytes and checksums."""
    for entry_id, content, checksum in rows:
        # A flipped bit also turns bytes into a text, a number or nothing.
        if not isinstance(content, bytes) or len(content) != dim * _FLOAT32.itemsize:
            raise damaged(path, f"entry {entry_id}: its {half} embedding is not of {dim} numbers")
        if zlib.crc32(content) != checksum:
            raise damaged(path, f"entry {entry_id}: its {half} embedding differs from its checksum")
    joined = np.frombuffer(b"".join(row[1] for row in rows), dtype=_FLOAT32)
    return joined.astype(np.float32).reshape(len(rows), dim)


def _in_groups(entry_ids: Sequence[int]) -> Iterator[tuple[list[int], str]]:
    """Yield different ids that SQLite can hold, with their placeholders, few enough at a time.

    The last one comes again until they are a power of two: each connection keeps its last 128
    statements prepared, with 200 bytes for an id, and one for each number of ids would fill that.
    """
    different = list({int(i) for i in entry_ids if _INT64.min <= i <= _INT64.max})
    for start in range(0, len(different), _IDS_AT_ONCE):
        some = different[start : start + _IDS_AT_ONCE]
        places = 1 << (len(some) - 1).bit_length()
        some += some[-1:] * (places - len(some))
        yield some, ", ".join("?" * places)


def check_found(entry_ids: Sequence[int], found: Iterable[int], field: str = "entry_ids") -> None:
    """Check that every id was found.

    Raises:
        EntryNotFoundError: If not; it names all that were not.
    """
    unknown = sorted({int(i) for i in entry_ids} - set(found))
    if unknown:
        shown = ", ".join(map(str, unknown[:20])) + (", ..." if len(unknown) > 20 else "")
        raise EntryNotFoundError(
            f"{field}: no entry has the id {shown} ({len(unknown)} unknown of {len(entry_ids)})."
            " It was never given out, or its entry was removed."
        )
