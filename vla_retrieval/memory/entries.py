"""Entries in SQLite: the truth of the memory.

Every function works inside a transaction that its caller opened.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import EntryNotFoundError
from vla_retrieval.memory.schema import damaged
from vla_retrieval.types import Action, CameraPose, Embeddings, Entry, NewEntry, Outcome

_COLUMNS = (
    "entry_id, instruction, stamp_ns, frame_id, episode_id, outcome,"
    " action_space, action_shape, action_values, pose_frame_id, pose_stamp_ns,"
    " pose_x, pose_y, pose_z, pose_qx, pose_qy, pose_qz, pose_qw"
)
_IDS_AT_ONCE = 10_000  # SQLite takes 32,766 values in a statement
_ROWS_AT_ONCE = 4_096  # 17 MB of embeddings at 512 dimensions
_FLOAT32 = np.dtype("<f4")
_INT64 = np.iinfo(np.int64)


class EmbeddedRows(NamedTuple):
    """Embeddings as they come out of the database, ascending by id.

    Attributes:
        entry_ids: Shape ``(n,)``.
        scenes: Shape ``(n, dim)``.
        instructions: Shape ``(n, dim)``.
    """

    entry_ids: NDArray[np.int64]
    scenes: Embeddings
    instructions: Embeddings


def insert(
    connection: sqlite3.Connection,
    entries: Sequence[NewEntry],
    scenes: Embeddings,
    instructions: Embeddings,
) -> list[int]:
    """Write entries with their embeddings, shape ``(n, dim)`` each, and return their new ids."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
    first = (row[0] if row else 0) + 1
    numbered = list(enumerate(entries, start=first))
    places = ", ".join("?" * len(_COLUMNS.split(",")))
    connection.executemany(
        f"INSERT INTO entries ({_COLUMNS}) VALUES ({places})",
        [_to_row(entry_id, entry) for entry_id, entry in numbered],
    )
    connection.executemany(
        "INSERT INTO tags (entry_id, position, tag) VALUES (?, ?, ?)",
        [(i, place, tag) for i, entry in numbered for place, tag in enumerate(entry.tags)],
    )
    connection.executemany(
        "INSERT INTO metadata (entry_id, key, value) VALUES (?, ?, ?)",
        [(i, key, value) for i, entry in numbered for key, value in entry.metadata.items()],
    )
    connection.executemany(
        "INSERT INTO thumbnails (entry_id, jpeg) VALUES (?, ?)",
        [(i, bytes(entry.thumbnail)) for i, entry in numbered if entry.thumbnail],
    )
    connection.executemany(
        "INSERT INTO embeddings (entry_id, scene, instruction, checksum) VALUES (?, ?, ?, ?)",
        [
            _to_embedding_row(i, scene, instruction)
            for (i, _), scene, instruction in zip(numbered, scenes, instructions, strict=True)
        ],
    )
    return [entry_id for entry_id, _ in numbered]


def delete(connection: sqlite3.Connection, entry_ids: Sequence[int]) -> None:
    """Delete entries and all that belongs to them.

    Raises:
        EntryNotFoundError: If one does not exist; then the caller must roll back.
    """
    found: set[int] = set()
    for some, places in _in_groups(entry_ids):
        where = f"WHERE entry_id IN ({places})"
        found.update(
            i for (i,) in connection.execute(f"SELECT entry_id FROM entries {where}", some)
        )
        connection.execute(f"DELETE FROM entries {where}", some)  # the rest cascades
    _check_found(entry_ids, found)


def read(
    connection: sqlite3.Connection, entry_ids: Sequence[int], *, thumbnails: bool
) -> list[Entry]:
    """Return entries in the order of their ids.

    Raises:
        EntryNotFoundError: If one does not exist; it names all that do not.
    """
    rows: dict[int, tuple[Any, ...]] = {}
    tags: dict[int, list[str]] = {}
    metadata: dict[int, dict[str, str]] = {}
    jpegs: dict[int, bytes] = {}
    for some, places in _in_groups(entry_ids):
        where = f"WHERE entry_id IN ({places})"
        for row in connection.execute(f"SELECT {_COLUMNS} FROM entries {where}", some):
            rows[row[0]] = row
        for i, tag in connection.execute(
            f"SELECT entry_id, tag FROM tags {where} ORDER BY entry_id, position", some
        ):
            tags.setdefault(i, []).append(tag)
        for i, key, value in connection.execute(
            f"SELECT entry_id, key, value FROM metadata {where} ORDER BY entry_id, key", some
        ):
            metadata.setdefault(i, {})[key] = value
        if thumbnails:
            jpegs.update(connection.execute(f"SELECT entry_id, jpeg FROM thumbnails {where}", some))
    _check_found(entry_ids, rows.keys())
    return [
        _to_entry(rows[i], tuple(tags.get(i, ())), metadata.get(i, {}), jpegs.get(i, b""))
        for i in map(int, entry_ids)
    ]


def read_embeddings(
    connection: sqlite3.Connection, entry_id: int, dim: int, path: Path
) -> tuple[Embeddings, Embeddings]:
    """Return an entry's scene and instruction embedding, shape ``(dim,)`` each.

    Raises:
        EntryNotFoundError: If it does not exist.
        MemoryFormatError: If the stored bytes are damaged.
    """
    rows: list[tuple[Any, ...]] = []
    for some, _ in _in_groups([entry_id]):
        query = "SELECT entry_id, scene, instruction, checksum FROM embeddings WHERE entry_id = ?"
        rows = connection.execute(query, some).fetchall()
    _check_found([entry_id], {row[0] for row in rows})
    found = _from_embedding_rows(rows, dim, path)
    return found.scenes[0], found.instructions[0]


def read_all_embeddings(
    connection: sqlite3.Connection, dim: int, path: Path
) -> Iterator[EmbeddedRows]:
    """Yield all embeddings in portions, ascending by id.

    Raises:
        MemoryFormatError: If the stored bytes are damaged, or do not belong to the entries.
    """
    cursor = connection.execute(
        "SELECT entry_id, scene, instruction, checksum FROM embeddings ORDER BY entry_id"
    )
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield _from_embedding_rows(rows, dim, path)
    unmatched = connection.execute(
        "SELECT (SELECT count(*) FROM entries WHERE entry_id NOT IN"
        " (SELECT entry_id FROM embeddings)) + (SELECT count(*) FROM embeddings WHERE entry_id"
        " NOT IN (SELECT entry_id FROM entries))"
    ).fetchone()[0]
    if unmatched:
        raise damaged(path, f"{unmatched} entries without embeddings, or the reverse")


def count_and_stamps(connection: sqlite3.Connection) -> tuple[int, int | None, int | None]:
    """Return the number of entries, the earliest and the latest stamp."""
    # One subquery each: SQLite answers min and max from the index only when asked alone.
    count, oldest, newest = connection.execute(
        "SELECT (SELECT count(*) FROM entries), (SELECT min(stamp_ns) FROM entries),"
        " (SELECT max(stamp_ns) FROM entries)"
    ).fetchone()
    return count, oldest, newest


def _to_row(entry_id: int, entry: NewEntry) -> tuple[Any, ...]:
    action: tuple[Any, ...] = (None, None, None)
    if entry.action is not None:
        values = np.ascontiguousarray(entry.action.values, dtype=_FLOAT32).tobytes()
        action = (entry.action.space, json.dumps([int(n) for n in entry.action.shape]), values)
    pose: tuple[Any, ...] = (None,) * 9
    if entry.camera_pose is not None:
        at = entry.camera_pose
        numbers = (float(v) for v in (*at.position, *at.orientation))
        pose = (at.frame_id, int(at.stamp_ns), *numbers)
    return (
        entry_id, entry.instruction, int(entry.stamp_ns), entry.frame_id, entry.episode_id,
        int(entry.outcome), *action, *pose,
    )  # fmt: skip


def _to_entry(
    row: tuple[Any, ...], tags: tuple[str, ...], metadata: dict[str, str], thumbnail: bytes
) -> Entry:
    entry_id, instruction, stamp_ns, frame_id, episode_id, outcome, space, shape, values = row[:9]
    action = pose = None
    if space is not None:
        numbers = np.frombuffer(values, dtype=_FLOAT32).astype(np.float32)
        action = Action(space, tuple(json.loads(shape)), numbers)
    if row[9] is not None:
        x, y, z, qx, qy, qz, qw = row[11:]
        pose = CameraPose(row[9], row[10], (x, y, z), (qx, qy, qz, qw))
    return Entry(
        instruction=instruction, stamp_ns=stamp_ns, frame_id=frame_id, episode_id=episode_id,
        outcome=Outcome(outcome), action=action, camera_pose=pose, tags=tags, metadata=metadata,
        thumbnail=thumbnail, entry_id=entry_id,
    )  # fmt: skip


def _to_embedding_row(
    entry_id: int, scene: Embeddings, instruction: Embeddings
) -> tuple[int, bytes, bytes, int]:
    blobs = scene.astype(_FLOAT32).tobytes(), instruction.astype(_FLOAT32).tobytes()
    return entry_id, *blobs, _checksum(*blobs)


def _from_embedding_rows(rows: Sequence[tuple[Any, ...]], dim: int, path: Path) -> EmbeddedRows:
    size = dim * _FLOAT32.itemsize
    for entry_id, scene, instruction, checksum in rows:
        if len(scene) != size or len(instruction) != size:
            raise damaged(path, f"entry {entry_id}: embeddings are not of {dim} dimensions")
        if _checksum(scene, instruction) != checksum:
            raise damaged(path, f"entry {entry_id}: embeddings differ from their checksum")
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    scenes, instructions = (
        np.frombuffer(b"".join(row[half] for row in rows), dtype=_FLOAT32)
        .astype(np.float32)
        .reshape(len(rows), dim)
        for half in (1, 2)
    )
    return EmbeddedRows(ids, scenes, instructions)


def _checksum(scene: bytes, instruction: bytes) -> int:
    return zlib.crc32(instruction, zlib.crc32(scene))


def _in_groups(entry_ids: Sequence[int]) -> Iterator[tuple[list[int], str]]:
    """Yield different ids that SQLite can hold, with their placeholders, few enough at a time."""
    different = list({int(i) for i in entry_ids if _INT64.min <= i <= _INT64.max})
    for start in range(0, len(different), _IDS_AT_ONCE):
        some = different[start : start + _IDS_AT_ONCE]
        yield some, ", ".join("?" * len(some))


def _check_found(entry_ids: Sequence[int], found: Any) -> None:
    unknown = sorted({int(i) for i in entry_ids} - set(found))
    if unknown:
        shown = ", ".join(map(str, unknown[:20])) + (", ..." if len(unknown) > 20 else "")
        raise EntryNotFoundError(
            f"entry_ids: no entry has the id {shown} ({len(unknown)} unknown of {len(entry_ids)})."
            " It was never given out, or its entry was removed."
        )
