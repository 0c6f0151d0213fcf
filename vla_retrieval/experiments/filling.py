"""Embeds the frames of bags into a frame store, with the encoder never waiting longer than it must.

The encoder has a thread of its own. While it works on one batch, the caller's thread keeps the one
before and reads the messages of the next, whose pictures are decoded in further threads. Messages
are read in the caller's thread because SQLite's connections belong to the thread that opened them.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.recorded import picture_of
from vla_retrieval.experiments.frame_store import QUERY_ID, FrameStore, Held, held_in
from vla_retrieval.experiments.stages import Progress, StageSeconds
from vla_retrieval.memory import Memory
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Embeddings, NewEntry, RgbImage

ENCODE_IMAGES, ENCODE_INSTRUCTIONS = "encode images (batch)", "encode instructions (batch)"
"""Stages of the encoder's thread."""
ENCODER_WAITS = "encoder waits (batch)"
"""The stage of that thread before, between and after its batches."""

_BATCH = 32
_MOST_DECODERS = 4  # as many pictures are decoded in the time that a small model takes for one
_THUMBNAIL_PX = 120

_Coming = list[tuple[Frame, "Future[RgbImage]"]]
"""Frames whose pictures are being decoded."""


def fill(
    memory: Memory,
    frames: Sequence[Frame],
    encoder: Encoder,
    seconds: StageSeconds,
    progress: Progress,
) -> FrameStore:
    """Embed the frames that the memory does not hold yet, in order.

    Args:
        memory: Of ``frame_store.open_store``.
        frames: All that will be needed, in order.
        encoder: Makes the embeddings.
        seconds: Filled with what each stage took.
        progress: Told how far it is.
    """
    held, added = held_in(memory), Held()
    refused: dict[str, int] = {}
    with (
        ThreadPoolExecutor(_decoders(), "pictures") as decoder,
        _Encoding(encoder, seconds) as work,
    ):

        def keep(batch: _Batch) -> None:
            ids = _keep(memory, batch, seconds)
            added.add([frame.query_id for frame in batch.frames], ids)

        for number, (whole, missing) in enumerate(_missing(frames, held)):
            coming = _begin(missing, decoder, refused, seconds)
            progress("embedding", number * _BATCH, len(frames))
            readable, images = _arrived(coming, refused)
            if readable and whole:
                # Not before the last image is decoded: the encoder waits for those.
                small = [decoder.submit(_thumbnail, image, seconds) for image in images]
                work.begin(readable, images, small)
            del images  # else they stay while the next ones are decoded
            # Before more is read, so that no more than two batches of pictures are there at a time.
            for done in work.finished(going_on=1):
                keep(done)
        for done in work.finished():
            keep(done)
        work.end()
    progress("embedding", len(frames), len(frames))
    held.join(added)
    return FrameStore(memory, held, refused)


def _decoders() -> int:
    return min(_MOST_DECODERS, len(os.sched_getaffinity(0)))


def _missing(frames: Sequence[Frame], held: Held) -> Iterator[tuple[bool, list[Frame]]]:
    """Yield the frames of each batch that are not held, and whether those are all of it.

    Always the same frames are together: a model's last bits depend on the batch. A batch is
    committed whole, so what is left of one that was begun cannot be read.
    """
    for start in range(0, len(frames), _BATCH):
        batch = list(frames[start : start + _BATCH])
        found = held.find([frame.query_id for frame in batch])
        missing = [frame for frame, at in zip(batch, found, strict=True) if at < 0]
        yield len(missing) == len(batch), missing


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
    seconds.add("read messages (batch), beside the encoder", time.perf_counter() - started)
    return coming


def _decode(recorded: Any, seconds: StageSeconds) -> RgbImage:
    started = time.perf_counter()
    image = picture_of(recorded)
    seconds.add("decode, beside the encoder", time.perf_counter() - started)
    return image


def _thumbnail(image: RgbImage, seconds: StageSeconds) -> bytes:
    started = time.perf_counter()
    small = make_thumbnail(image, _THUMBNAIL_PX)
    seconds.add("thumbnail, beside the encoder", time.perf_counter() - started)
    return small


def _arrived(coming: _Coming, refused: dict[str, int]) -> tuple[list[Frame], list[RgbImage]]:
    """Return the frames that have a picture, and leave nothing of the pictures behind."""
    readable, images = [], []
    for frame, image in coming:
        try:
            images.append(image.result())
            readable.append(frame)
        except InvalidInputError as error:
            _refuse(refused, error)
    coming.clear()  # whoever made the list still holds it
    return readable, images


def _refuse(refused: dict[str, int], error: InvalidInputError) -> None:
    refused[error.field] = refused.get(error.field, 0) + 1


class _Batch(NamedTuple):
    frames: list[Frame]
    thumbnails: list[Future[bytes]]
    scenes: Embeddings
    instructions: Embeddings


class _Encoding:
    """Encodes batches one by one in a thread of its own, which ends with the ``with`` block."""

    def __init__(self, encoder: Encoder, seconds: StageSeconds) -> None:
        self._encoder, self._seconds = encoder, seconds
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._batches: deque[Future[_Batch]] = deque()
        self._idle_since = time.perf_counter()

    def __enter__(self) -> _Encoding:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def begin(
        self, frames: list[Frame], images: list[RgbImage], thumbnails: list[Future[bytes]]
    ) -> None:
        """Begin with a batch once those before are finished."""
        self._batches.append(self._thread.submit(self._encode, frames, images, thumbnails))

    def finished(self, going_on: int = 0) -> Iterator[_Batch]:
        """Wait for batches, oldest first, until no more than so many are going on."""
        while len(self._batches) > going_on:
            yield self._batches.popleft().result()

    def end(self) -> None:
        """Note how long the thread has had nothing to do since its last batch."""
        self._seconds.add(ENCODER_WAITS, time.perf_counter() - self._idle_since)

    def _encode(
        self, frames: list[Frame], images: list[RgbImage], thumbnails: list[Future[bytes]]
    ) -> _Batch:
        started = time.perf_counter()
        scenes = self._encoder.encode_images(images)
        between = time.perf_counter()
        instructions = self._encoder.encode_instructions([frame.instruction for frame in frames])
        ended = time.perf_counter()
        self._seconds.add(ENCODER_WAITS, started - self._idle_since)
        self._seconds.add(ENCODE_IMAGES, between - started)
        self._seconds.add(ENCODE_INSTRUCTIONS, ended - between)
        self._idle_since = ended
        return _Batch(frames, thumbnails, scenes, instructions)


def _keep(memory: Memory, batch: _Batch, seconds: StageSeconds) -> list[int]:
    """Remember a batch; return the ids of its entries."""
    started = time.perf_counter()
    entries = [
        NewEntry(
            frame.instruction, max(0, frame.stamp_ns), frame.frame_id, frame.episode_id,
            metadata={QUERY_ID: frame.query_id},
            thumbnail=thumbnail.result(),
        )
        for frame, thumbnail in zip(batch.frames, batch.thumbnails, strict=True)
    ]  # fmt: skip
    ids = memory.add(entries, batch.scenes, batch.instructions)
    seconds.add("keep (batch), beside the encoder", time.perf_counter() - started)
    return ids
