"""One entry as plain data, the same in every format, and where such data comes from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.types import (
    Action,
    CameraPose,
    Embeddings,
    Entry,
    Fingerprint,
    NewEntry,
    Outcome,
)

FORMAT = 1
"""Of what an export holds; a reader refuses others."""

Record = dict[str, Any]

_Kind = TypeVar("_Kind")


class Batch(NamedTuple):
    """Some entries of an export.

    Attributes:
        old_ids: What they were called where they come from.
        entries: With their thumbnails.
        scenes: Shape ``(n, dim)``.
        instructions: Shape ``(n, dim)``.
    """

    old_ids: Sequence[int]
    entries: Sequence[NewEntry]
    scenes: Embeddings
    instructions: Embeddings


class Source(Protocol):
    """An export that can be read.

    Attributes:
        fingerprint: Of the encoder that made its embeddings.
        count: How many entries it holds.
    """

    fingerprint: Fingerprint
    count: int

    def batches(self) -> Iterator[Batch]:
        """Yield all entries, in their order.

        Raises:
            InvalidInputError: If what comes next is not what an export holds.
            StorageError: If it cannot be read.
        """


def to_record(entry: Entry) -> Record:
    """Return all of an entry but its thumbnail, as numbers, texts, lists and mappings."""
    action: Record | None = None
    if entry.action is not None:
        action = {
            "space": entry.action.space,
            "shape": list(entry.action.shape),
            "values": entry.action.values.tolist(),
        }
    pose: Record | None = None
    if entry.camera_pose is not None:
        pose = {
            "frame_id": entry.camera_pose.frame_id,
            "stamp_ns": entry.camera_pose.stamp_ns,
            "position": list(entry.camera_pose.position),
            "orientation": list(entry.camera_pose.orientation),
        }
    return {
        "entry_id": entry.entry_id,
        "instruction": entry.instruction,
        "stamp_ns": entry.stamp_ns,
        "frame_id": entry.frame_id,
        "episode_id": entry.episode_id,
        "outcome": entry.outcome.name.lower(),
        "action": action,
        "camera_pose": pose,
        "tags": list(entry.tags),
        "metadata": dict(entry.metadata),
        "pinned": entry.pinned,
        "merged": entry.merged,
    }


def from_record(record: Mapping[str, Any], thumbnail: bytes, place: str) -> NewEntry:
    """Return what ``to_record`` took apart, as an entry to be stored.

    What only the memory says about an entry, its id and what was merged into it, is left out.

    Args:
        record: As ``to_record`` made it.
        thumbnail: JPEG bytes, or empty.
        place: Where it was read, for messages.

    Raises:
        InvalidInputError: If a field is missing or of another kind.
    """
    try:
        return NewEntry(
            instruction=record["instruction"],
            stamp_ns=whole(record["stamp_ns"]),
            frame_id=record["frame_id"],
            episode_id=record["episode_id"],
            outcome=Outcome[record["outcome"].upper()],
            action=_action(record["action"]),
            camera_pose=_pose(record["camera_pose"]),
            tags=tuple(_of(list, record["tags"])),
            metadata=dict(record["metadata"]),
            thumbnail=thumbnail,
            pinned=_of(bool, record["pinned"]),
        )
    except (
        InvalidInputError, KeyError, TypeError, ValueError, AttributeError, OverflowError,
    ) as error:  # fmt: skip
        raise InvalidInputError(
            place, "an entry as an export writes it", f"{type(error).__name__}: {error}"
        ) from error


def fingerprint_to_text(fingerprint: Fingerprint) -> str:
    """Return a fingerprint as one line of JSON."""
    return json.dumps(dataclasses.asdict(fingerprint), ensure_ascii=False)


def fingerprint_from_text(text: str | bytes, place: str) -> Fingerprint:
    """Return what ``fingerprint_to_text`` wrote.

    Raises:
        InvalidInputError: If it is none.
    """
    try:
        return Fingerprint.from_plain(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            place, "the fingerprint of an encoder", f"{str(text)[:200]!r} ({error})"
        ) from error


def check_format(found: object, place: str) -> None:
    """Check that an export is of the format that this version reads.

    Raises:
        InvalidInputError: If it is not.
    """
    if str(found) != str(FORMAT):
        raise InvalidInputError(
            place, f"format {FORMAT} of an export", f"format {found}",
            "Import it with the version of vla_retrieval that wrote it.",
        )  # fmt: skip


def whole(value: object) -> int:
    """Return a value that is a whole number.

    Raises:
        TypeError: If it is of another type.
    """
    if type(value) is not int:  # int() would cut a fraction off, and digits off a float
        raise TypeError(f"expected a whole number, got {value!r:.40}")
    return value


def unreadable(path: Path, error: OSError) -> StorageError:
    """Return what is raised where an export cannot be read."""
    return StorageError(
        f"cannot read {path}: {error.strerror or error}. Check the path and the rights."
    )


def _action(record: Mapping[str, Any] | None) -> Action | None:
    if record is None:
        return None
    values = np.array(record["values"], dtype=np.float32).reshape(-1)
    return Action(record["space"], tuple(whole(n) for n in record["shape"]), values)


def _pose(record: Mapping[str, Any] | None) -> CameraPose | None:
    if record is None:
        return None
    x, y, z = (float(v) for v in record["position"])
    qx, qy, qz, qw = (float(v) for v in record["orientation"])
    return CameraPose(
        record["frame_id"], whole(record["stamp_ns"]), (x, y, z), (qx, qy, qz, qw)
    )  # fmt: skip


def _of(kind: type[_Kind], value: object) -> _Kind:
    if not isinstance(value, kind):  # a text would be a list of letters, and "no" be true
        raise TypeError(f"expected a {kind.__name__}, got {value!r:.40}")
    return value
