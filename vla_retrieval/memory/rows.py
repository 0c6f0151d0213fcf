"""One entry as a row of SQLite, with the checksum that tells when it is no longer the same."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory.labels import metadata_of, metadata_text, tags_of, tags_text
from vla_retrieval.memory.schema import damaged
from vla_retrieval.types import Action, CameraPose, Entry, NewEntry, Outcome

_CONTENT = (
    "instruction, stamp_ns, frame_id, episode_id, outcome,"
    " action_space, action_shape, action_values, pose_frame_id, pose_stamp_ns,"
    " pose_x, pose_y, pose_z, pose_qx, pose_qy, pose_qz, pose_qw"
)
COLUMNS = f"entry_id, {_CONTENT}, checksum, pinned, merged, tags, metadata"
"""Of the table ``entries``, in the order of a row."""

_FLOAT32 = np.dtype("<f4")
_ID = struct.Struct("<q")
_FIXED = struct.Struct("<bqqq7d")
_BETWEEN = "\x1f"  # texts that hold it are still covered; a checksum need not tell all texts apart


def to_row(entry_id: int, entry: NewEntry) -> tuple[Any, ...]:
    """Return the values of ``COLUMNS``."""
    action: tuple[Any, ...] = (None, None, None)
    if entry.action is not None:
        values = np.ascontiguousarray(entry.action.values, dtype=_FLOAT32).tobytes()
        action = (entry.action.space, json.dumps([int(n) for n in entry.action.shape]), values)
    pose: tuple[Any, ...] = (None,) * 9
    if entry.camera_pose is not None:
        at = entry.camera_pose
        # SQLite gives -0.0 back as 0.0, which the checksum would not forgive.
        numbers = (float(v) + 0.0 for v in (*at.position, *at.orientation))
        pose = (at.frame_id, int(at.stamp_ns), *numbers)
    content = (
        entry.instruction, int(entry.stamp_ns), entry.frame_id, entry.episode_id,
        int(entry.outcome), *action, *pose,
    )  # fmt: skip
    checksum = _with_id(entry_id, _checksum(content, entry.tags, entry.metadata))
    labels = tags_text(entry.tags), metadata_text(entry.metadata)
    return entry_id, *content, checksum, int(entry.pinned), 0, *labels


def to_entry(row: tuple[Any, ...], path: Path) -> Entry:
    """Return the entry of a row, without its thumbnail.

    Args:
        row: The values of ``COLUMNS``.
        path: Of the database.

    Raises:
        MemoryFormatError: If it differs from its checksum.
    """
    entry_id, *content, checksum, _, _, tags_as_text, metadata_as_text = row
    try:
        tags, metadata = tags_of(tags_as_text), metadata_of(metadata_as_text)
        computed = _checksum(content, tags, metadata)
        # The second in entries of memories of format 4.
        if checksum in (_with_id(entry_id, computed), computed):
            return _to_entry(row, tags, metadata)
    except (TypeError, ValueError, struct.error, InvalidInputError):
        pass  # a flipped bit also turns a text into bytes, or a number into nothing
    raise damaged(path, f"entry {entry_id} differs from its checksum")


def _to_entry(row: tuple[Any, ...], tags: tuple[str, ...], metadata: dict[str, str]) -> Entry:
    entry_id, *content, _, pinned, merged, _, _ = row
    instruction, stamp_ns, frame_id, episode_id, outcome, space, shape, values = content[:8]
    action = pose = None
    if space is not None:
        numbers = np.frombuffer(values, dtype=_FLOAT32).astype(np.float32)
        numbers.setflags(write=False)  # entries are shared between those who ask for them
        action = Action(space, tuple(json.loads(shape)), numbers)
    if content[8] is not None:
        x, y, z, qx, qy, qz, qw = content[10:]
        pose = CameraPose(content[8], content[9], (x, y, z), (qx, qy, qz, qw))
    return Entry(
        instruction=instruction, stamp_ns=stamp_ns, frame_id=frame_id, episode_id=episode_id,
        outcome=Outcome(outcome), action=action, camera_pose=pose, tags=tags,
        metadata=MappingProxyType(metadata),
        pinned=bool(pinned), entry_id=entry_id, merged=merged,
    )  # fmt: skip


def _with_id(entry_id: int, checksum: int) -> int:
    """Return a row's checksum that covers its id, too: a flipped bit must not renumber it."""
    return zlib.crc32(_ID.pack(entry_id), checksum)


def _checksum(content: Sequence[Any], tags: Sequence[str], metadata: Mapping[str, str]) -> int:
    """Return the CRC-32 of all values, in a form that is the same in every Python."""
    instruction, stamp_ns, frame_id, episode_id, outcome, space, shape, values = content[:8]
    pose_frame_id, pose_stamp_ns, *numbers = content[8:]
    absent = (space is None) + 2 * (pose_frame_id is None)
    # A pose without one of its numbers is no pose at 0: pack refuses it.
    pose = (pose_stamp_ns, *numbers) if pose_frame_id is not None else (0,) * 8
    fixed = _FIXED.pack(absent, stamp_ns, outcome, *pose)
    texts = [instruction, frame_id, episode_id, space or "", shape or "", pose_frame_id or ""]
    pairs = [text for pair in sorted(metadata.items()) for text in pair]
    joined = _BETWEEN.join([*texts, str(len(tags)), *tags, *pairs]).encode()
    return zlib.crc32(values or b"", zlib.crc32(joined, zlib.crc32(fixed)))
