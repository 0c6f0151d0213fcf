"""Embedded frames, kept in a memory so that a broken evaluation goes on from where it was."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame, ReadOptions
from vla_retrieval.memory import Memory, MemoryOptions
from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.projection import Head
from vla_retrieval.types import Similarity

QUERY_ID = "query_id"
"""The key in an entry's metadata under which its frame's id is."""

_READ_AT_ONCE = 1000
_NOTE = "source.json"

_KEY = "S16"


class Held:
    """Which frames a memory holds: 24 bytes each."""

    def __init__(self) -> None:
        """Know of none."""
        self._keys = np.zeros(0, _KEY)
        self._ids = np.zeros(0, np.int64)
        self._new_keys = bytearray()
        self._new_ids = array("q")

    def add(self, query_ids: Sequence[str], entry_ids: Sequence[int]) -> None:
        """Note where frames are."""
        self._new_keys += _keys(query_ids)
        self._new_ids.extend(entry_ids)

    def join(self, other: Held) -> None:
        """Note what another one knows."""
        other._settle()
        self._new_keys += other._keys.tobytes()
        self._new_ids.extend(other._ids.tolist())

    def find(self, query_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the entry of each frame, -1 where there is none: int64, shape ``(n,)``."""
        self._settle()
        if not len(self._keys):
            return np.full(len(query_ids), -1, np.int64)
        wanted = np.frombuffer(_keys(query_ids), _KEY)
        at = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[at] == wanted, self._ids[at], -1)

    def _settle(self) -> None:
        """Sort what came since the last time."""
        if not self._new_ids:
            return
        keys = np.concatenate([self._keys, np.frombuffer(bytes(self._new_keys), _KEY)])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._ids = np.concatenate([self._ids, np.array(self._new_ids, np.int64)])[order]
        self._new_keys, self._new_ids = bytearray(), array("q")


def _keys(query_ids: Sequence[str]) -> bytes:
    """Return what stands for query ids: 16 bytes of a hash, which no two of them share."""
    made = (hashlib.blake2b(query_id.encode(), digest_size=16) for query_id in query_ids)
    return b"".join(hashed.digest() for hashed in made)


class FrameStore:
    """Frames with their embeddings and small pictures.

    Args:
        memory: Holds them; each entry's metadata has the frame's ``query_id``.
        held: Which frames are in it. Entries are in the order of the frames.
        refused: Why others have no picture -> how many.
    """

    def __init__(self, memory: Memory, held: Held, refused: dict[str, int]) -> None:
        """Use ``filling.fill``."""
        self.memory = memory
        self.refused = refused
        self._held = held

    def entries_of(self, frames: Sequence[Frame]) -> NDArray[np.int64]:
        """Return the entry of each frame, -1 where it has no picture: int64, shape ``(n,)``."""
        parts = (frames[start : start + _READ_AT_ONCE]
                 for start in range(0, len(frames), _READ_AT_ONCE))  # fmt: skip
        found = [self._held.find([frame.query_id for frame in part]) for part in parts]
        return np.concatenate([np.zeros(0, np.int64), *found])


def open_store(
    folder: Path,
    encoder: Encoder,
    similarity: Similarity,
    source: str,
    head: Head | None = None,
) -> Memory:
    """Open the memory of a work folder, or begin it.

    Args:
        folder: For this evaluation's work.
        encoder: Makes the embeddings.
        similarity: How they will be compared.
        source: What the frames are from; another one is refused.
        head: Projects embeddings before they are compared; what is kept does not depend on it.

    Raises:
        HeadMismatchError: If the head was made for another encoder.
        InvalidInputError: If the folder holds the work on other bags, or of another engine,
            precision or kind of device.
        StorageError: If it cannot be used, or is of another encoder.
    """
    # The fingerprint has no arithmetic, which decides the last bits of what is computed.
    with storage_errors("use", folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_note(folder, {"source": source, "arithmetic": arithmetic_of(encoder)})
    options = MemoryOptions(index="exact", vectors_in=folder)
    return Memory.open(
        folder / "frames", encoder.fingerprint, similarity, durable=False, options=options,
        head=head,
    )  # fmt: skip


def arithmetic_of(encoder: Encoder) -> str:
    """Return what computes, in which precision and on what kind of device, as one text."""
    return f"{encoder.engine} in {encoder.precision} on {encoder.device.partition(':')[0]}"


def _check_note(folder: Path, wanted: dict[str, str]) -> None:
    """Note what a work folder is for, or refuse one that is for something else."""
    note = folder / _NOTE
    if not note.exists():
        partial = note.with_suffix(".partial")  # a note cut short would be one of other bags
        partial.write_text(json.dumps(wanted), encoding="utf-8")
        partial.replace(note)
        return
    try:
        found = dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        found = {}
    if found.get("source") != wanted["source"]:
        raise InvalidInputError(
            "work", "the work on these bags, unchanged and read in the same way",
            f"that on others in {folder}", "Give another folder, or remove it.",
        )  # fmt: skip
    if found.get("arithmetic") != wanted["arithmetic"]:
        raise InvalidInputError(
            "work", f"embeddings of {wanted['arithmetic']}",
            f"those of {found.get('arithmetic', 'an older release')} in {folder}",
            "Give another folder, or remove it, or name the engine, precision and device that it"
            " was begun with.",
        )  # fmt: skip


def source_of(paths: Sequence[Path], reading: ReadOptions, every_sec: float) -> str:
    """Return what frames are from: a hash of the bags' files, and how they are read.

    Files count by name, size and time of change.
    """
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return f"{digest.hexdigest()} {reading} {every_sec}"


def held_in(memory: Memory) -> Held:
    """Return which frames a memory of ``open_store`` holds."""
    held = Held()
    ids = memory.entry_ids()
    for start in range(0, len(ids), _READ_AT_ONCE):
        entries = memory.get_many(ids[start : start + _READ_AT_ONCE])
        held.add([entry.metadata[QUERY_ID] for entry in entries], [e.entry_id for e in entries])
    return held
