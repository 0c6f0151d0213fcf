"""Pictures that wait to be embedded: each can be read, and keeps what was made of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros.frames import FrameReader, ImageMessage, NewestFrame
from vla_retrieval.ros.images import to_rgb
from vla_retrieval.types import Embeddings, RgbImage, check_instruction


class Picture(Protocol):
    """What a job will have embedded, or another one before it."""

    def to_embed(self) -> RgbImage | None:
        """Return the picture, or None where there is nothing to do.

        Raises:
            InvalidInputError: If it is malformed, too large or of an unknown encoding.
        """

    def keep(self, image: RgbImage, scene: Embeddings, took_sec: float) -> None:
        """Keep the embedding of what ``to_embed`` returned, for the job.

        Args:
            image: The picture.
            scene: Shape ``(dim,)``.
            took_sec: Its share of the time that the batch took.
        """


Input: TypeAlias = str | Picture
"""An instruction or a picture."""


class OwnPicture:
    """The picture that a request brings, decoded once.

    Attributes:
        scene: Its embedding, shape ``(dim,)``, once somebody has made it.
        took_sec: That this took.
    """

    def __init__(self, message: ImageMessage, field: str, max_pixels: int) -> None:
        """Take it; it is not looked at yet.

        Args:
            message: The picture.
            field: Of the request, for errors.
            max_pixels: Most that it may have.
        """
        self._message = message
        self._field = field
        self._max_pixels = max_pixels
        self._image: RgbImage | None = None
        self.scene: Embeddings | None = None
        self.took_sec = 0.0

    def image(self) -> RgbImage:
        """Return it decoded.

        Raises:
            InvalidInputError: If it is malformed, too large or of an unknown encoding.
        """
        if self._image is None:
            self._image = to_rgb(self._message, self._field, self._max_pixels)
        return self._image

    def to_embed(self) -> RgbImage | None:
        """Return it, unless it is embedded."""
        return self.image() if self.scene is None else None

    def keep(self, image: RgbImage, scene: Embeddings, took_sec: float) -> None:
        """Keep its embedding."""
        self.scene, self.took_sec = scene, took_sec


class NewestPicture:
    """The camera's frame that is the newest when it is embedded."""

    def __init__(self, newest: NewestFrame, reader: FrameReader) -> None:
        """Look for it later."""
        self._newest = newest
        self._reader = reader

    def to_embed(self) -> RgbImage | None:
        """Return it, unless there is none or it is embedded."""
        frame = self._newest.get()
        if frame is None or self._reader.has_embedded(frame):
            return None
        return self._reader.image(frame)

    def keep(self, image: RgbImage, scene: Embeddings, took_sec: float) -> None:
        """Let the reader keep its embedding."""
        self._reader.keep(image, scene, took_sec)


def embed_together(inputs: Iterable[Input], encoder: Encoder, max_pixels: int) -> None:
    """Embed what several jobs will need, instructions in one pass and pictures in another.

    The encoder keeps what it makes of instructions, and each picture its own. What is malformed is
    left out: its job says so.

    Args:
        inputs: Of those jobs.
        encoder: Of all of them.
        max_pixels: Of the pictures together, but for the first one.

    Raises:
        EncoderError: If the encoder fails.
    """
    inputs = list(inputs)
    texts = [text for text in inputs if isinstance(text, str) and _is_instruction(text)]
    if len(texts) > 1:
        encoder.encode_instructions(texts)
    waiting = _waiting((each for each in inputs if not isinstance(each, str)), max_pixels)
    if len(waiting) > 1:
        begun = time.monotonic()
        scenes = encoder.encode_images([image for image, _ in waiting])
        took_sec = (time.monotonic() - begun) / len(waiting)
        for scene, (image, pictures) in zip(scenes, waiting, strict=True):
            for picture in pictures:
                picture.keep(image, scene, took_sec)


def _is_instruction(text: str) -> bool:
    try:
        check_instruction(text)
    except InvalidInputError:
        return False
    return True


def _waiting(pictures: Iterable[Picture], max_pixels: int) -> list[tuple[RgbImage, list[Picture]]]:
    """Return what is to be embedded, with those that want it: one frame may be wanted twice."""
    found: dict[int, tuple[RgbImage, list[Picture]]] = {}
    pixels = 0
    for picture in pictures:
        try:
            image = picture.to_embed()
        except InvalidInputError:
            continue
        if image is None:
            continue
        if id(image) not in found:
            pixels += image.shape[0] * image.shape[1]
            if found and pixels > max_pixels:
                break
            found[id(image)] = image, []
        found[id(image)][1].append(picture)
    return list(found.values())
