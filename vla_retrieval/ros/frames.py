"""The newest camera frame and the instruction in force, and what is known of the frame."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TypeAlias

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from vla_retrieval.encoders import Encoder
from vla_retrieval.ros.images import to_rgb
from vla_retrieval.types import Embeddings, RgbImage

ImageMessage: TypeAlias = Image | CompressedImage


@dataclass(frozen=True)
class Frame:
    """One image message, as it came.

    Attributes:
        number: Counts the frames received, from 1 on.
        received_ns: When it came, on the node's clock.
    """

    message: ImageMessage
    number: int
    received_ns: int

    @property
    def header(self) -> Header:
        """The message's header."""
        return self.message.header


class NewestFrame:
    """Holds the newest frame and no other: there is no queue of old ones."""

    def __init__(self) -> None:
        """Start without a frame."""
        # Protects the slot: the ROS thread puts, the inference thread takes.
        self._lock = threading.Lock()
        self._frame: Frame | None = None

    def put(self, message: ImageMessage, received_ns: int) -> Frame:
        """Replace the frame."""
        with self._lock:
            number = self._frame.number + 1 if self._frame else 1
            self._frame = Frame(message, number, received_ns)
            return self._frame

    def get(self) -> Frame | None:
        """Return the newest frame, or None before the first."""
        with self._lock:
            return self._frame


@dataclass(frozen=True)
class Instruction:
    """The instruction in force and the episode that it began."""

    text: str
    episode_id: str


class FrameReader:
    """Decodes and encodes frames, each at most once. For the inference thread alone."""

    def __init__(self, encoder: Encoder, max_pixels: int) -> None:
        """Read with an encoder frames of at most so many pixels."""
        self._encoder = encoder
        self._max_pixels = max_pixels
        self._number = 0
        self._image: RgbImage | None = None
        self._scene: Embeddings | None = None

    def image(self, frame: Frame) -> RgbImage:
        """Return the frame's picture.

        Raises:
            InvalidInputError: If it is malformed, too large or of an unknown encoding.
        """
        if self._image is None or frame.number != self._number:
            self._image, self._scene = None, None
            self._image = to_rgb(frame.message, "image", self._max_pixels)
            self._number = frame.number
        return self._image

    def scene(self, frame: Frame) -> Embeddings:
        """Return the frame's embedding, shape ``(dim,)``.

        Raises:
            InvalidInputError: If the frame is malformed or of an unknown encoding.
        """
        image = self.image(frame)
        if self._scene is None:
            self._scene = self._encoder.encode_images([image])[0]
        return self._scene
