"""Embedded frames, kept in a memory so that a broken evaluation goes on from where it was.

Pictures are decoded in a thread of their own, a batch ahead of the encoder. Their messages are read
in the caller's thread: SQLite's connections belong to the thread that opened them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.recordings import picture_of
from vla_retrieval.memory import Memory, MemoryOptions
from vla_retrieval.projection import Head
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Embeddings, NewEntry, RgbImage, Similarity

Progress = Callable[[str, int, int], None]

_BATCH = 32
_READ_AT_ONCE = 1000
_THUMBNAIL_PX = 120
_QUERY_ID = "query_id"

_Picture = tuple[RgbImage, bytes]
"""A frame's image, and its small picture as JPEG."""
_Coming = list[tuple[Frame, "Future[_Picture]"]]
"""Frames whose pictures are being decoded."""


@dataclass
class StageSeconds:
    """Seconds of each call, by stage."""

    calls: dict[str, list[float]] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        """Note one call."""
        self.calls.setdefault(stage, []).append(seconds)


class FrameStore:
    """Frames with their embeddings and small pictures, in the order of the frames.

    Args:
        memory: Holds them; each entry's metadata has the frame's ``query_id``.
        frames: Those that can be read, in order.
        entry_ids: Theirs, in the memory.
        refused: Why others have no picture -> how many.
    """

    def __init__(
        self,
        memory: Memory,
        frames: tuple[Frame, ...],
        entry_ids: NDArray[np.int64],
        refused: dict[str, int],
    ) -> None:
        """Use ``fill``."""
        self.memory = memory
        self.frames = frames
        self.entry_ids = entry_ids
        self.refused = refused


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
        InvalidInputError: If the folder holds the work on other bags.
        StorageError: If it cannot be used, or is of another encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "source.json"
    wanted = json.dumps({"source": source})
    if note.exists() and note.read_text(encoding="utf-8") != wanted:
        raise InvalidInputError(
            "work", "the work on these bags, unchanged", f"that on others in {folder}",
            "Give another folder, or remove it.",
        )  # fmt: skip
    note.write_text(wanted, encoding="utf-8")
    options = MemoryOptions(index="exact")
    return Memory.open(
        folder / "frames", encoder.fingerprint, similarity, durable=False, options=options,
        head=head,
    )  # fmt: skip


def fingerprint_of(paths: Sequence[Path]) -> str:
    """Return a hash of which files bags are, by name, size and time of change."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def fill(
    memory: Memory,
    frames: Sequence[Frame],
    encoder: Encoder,
    seconds: StageSeconds,
    progress: Progress,
) -> FrameStore:
    """Embed the frames that the memory does not hold yet, in order.

    Args:
        memory: Of ``open_store``.
        frames: All that will be needed, in order.
        encoder: Makes the embeddings.
        seconds: Filled with what each stage took.
        progress: Told how far it is.
    """
    held = _held(memory)
    refused: dict[str, int] = {}
    # Always the same frames together: a model's last bits depend on the batch. A batch is
    # committed whole, so what is left of one that was begun cannot be read.
    batches = [frames[start : start + _BATCH] for start in range(0, len(frames), _BATCH)]
    missing = [[frame for frame in batch if frame.query_id not in held] for batch in batches]
    with ThreadPoolExecutor(1, "pictures") as decoder:
        for number, coming in enumerate(_ahead(missing, decoder, refused, seconds)):
            progress("embedding", number * _BATCH, len(frames))
            readable, pictures = _arrived(coming, refused, seconds)
            if readable and len(missing[number]) == len(batches[number]):
                _add(memory, readable, pictures, encoder, seconds)
    progress("embedding", len(frames), len(frames))
    held = _held(memory)
    kept = tuple(frame for frame in frames if frame.query_id in held)
    ids = np.array([held[frame.query_id] for frame in kept], dtype=np.int64)
    return FrameStore(memory, kept, ids, refused)


def _held(memory: Memory) -> dict[str, int]:
    """Return query id to entry id."""
    found: dict[str, int] = {}
    ids = memory.entry_ids()
    for start in range(0, len(ids), _READ_AT_ONCE):
        entries = memory.get_many(ids[start : start + _READ_AT_ONCE])
        found |= {entry.metadata[_QUERY_ID]: entry.entry_id for entry in entries}
    return found


def _ahead(
    batches: Sequence[Sequence[Frame]],
    decoder: ThreadPoolExecutor,
    refused: dict[str, int],
    seconds: StageSeconds,
) -> Iterator[_Coming]:
    """Yield each batch once the next one is on its way too."""
    before: _Coming | None = None
    for batch in batches:
        coming = _begin(batch, decoder, refused, seconds)
        if before is not None:
            yield before
        before = coming
    if before is not None:
        yield before


def _begin(
    frames: Sequence[Frame],
    decoder: ThreadPoolExecutor,
    refused: dict[str, int],
    seconds: StageSeconds,
) -> _Coming:
    started = time.perf_counter()
    coming: _Coming = []
    for frame in frames:
        try:
            coming.append((frame, decoder.submit(_decode, frame.message(), seconds)))
        except InvalidInputError as error:
            _refuse(refused, error)
    seconds.add("read messages (batch)", time.perf_counter() - started)
    return coming


def _decode(recorded: Any, seconds: StageSeconds) -> _Picture:
    started = time.perf_counter()
    image = picture_of(recorded)
    decoded = time.perf_counter()
    small = make_thumbnail(image, _THUMBNAIL_PX)
    seconds.add("decode, beside the encoder", decoded - started)
    seconds.add("thumbnail, beside the encoder", time.perf_counter() - decoded)
    return image, small


def _arrived(
    coming: _Coming, refused: dict[str, int], seconds: StageSeconds
) -> tuple[list[Frame], list[_Picture]]:
    """Return the frames that have a picture, and leave nothing of the pictures behind."""
    started = time.perf_counter()
    readable, pictures = [], []
    for frame, picture in coming:
        try:
            pictures.append(picture.result())
            readable.append(frame)
        except InvalidInputError as error:
            _refuse(refused, error)
    coming.clear()  # whoever made the list still holds it
    seconds.add("wait for pictures (batch)", time.perf_counter() - started)
    return readable, pictures


def _refuse(refused: dict[str, int], error: InvalidInputError) -> None:
    refused[error.field] = refused.get(error.field, 0) + 1


def _add(
    memory: Memory,
    frames: Sequence[Frame],
    pictures: Sequence[_Picture],
    encoder: Encoder,
    seconds: StageSeconds,
) -> None:
    started = time.perf_counter()
    scenes: Embeddings = encoder.encode_images([image for image, _ in pictures])
    between = time.perf_counter()
    instructions = encoder.encode_instructions([frame.instruction for frame in frames])
    ended = time.perf_counter()
    seconds.add("encode images (batch)", between - started)
    seconds.add("encode instructions (batch)", ended - between)
    entries = [
        NewEntry(
            frame.instruction, max(0, frame.stamp_ns), frame.frame_id, frame.episode_id,
            metadata={_QUERY_ID: frame.query_id},
            thumbnail=thumbnail,
        )
        for frame, (_, thumbnail) in zip(frames, pictures, strict=True)
    ]  # fmt: skip
    memory.add(entries, scenes, instructions)
    seconds.add("keep (batch)", time.perf_counter() - ended)
