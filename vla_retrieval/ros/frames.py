"""The newest camera frame and the instruction in force, and what is known of the frame."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
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
        received_ns: When it came, on the node's clock, which may be simulated or set.
        received_sec: The same on the steady clock, ``time.monotonic``.
    """

    message: ImageMessage
    number: int
    received_ns: int
    received_sec: float = field(default_factory=time.monotonic)

    @property
    def header(self) -> Header:
        """The message's header."""
        return self.message.header


class NewestFrame:
    """Holds the newest frame and no other: there is no queue of old ones."""

    def __init__(self) -> None:
        """Start without a frame."""
        # Protects the slot: the ROS thread puts, an inference thread takes.
        self._lock = threading.Lock()
        self._frame: Frame | None = None
        self._number = 0

    @property
    def number(self) -> int:
        """Number of the last frame that was put, or 0 before the first."""
        with self._lock:
            return self._number

    def put(self, message: ImageMessage, received_ns: int) -> Frame:
        """Replace the frame."""
        with self._lock:
            self._number += 1
            self._frame = Frame(message, self._number, received_ns)
            return self._frame

    def get(self) -> Frame | None:
        """Return the newest frame, or None before the first and after ``clear``."""
        with self._lock:
            return self._frame

    def clear(self) -> None:
        """Let go of the frame; the next one has the next number all the same."""
        with self._lock:
            self._frame = None


@dataclass(frozen=True)
class Instruction:
    """The instruction in force and the episode that it began."""

    text: str
    episode_id: str


@dataclass(frozen=True)
class _Seen:
    """What is known of one frame."""

    frame: Frame
    image: RgbImage
    scene: Embeddings | None = None
    took_sec: float = 0.0  # to embed it ahead


class FrameReader:
    """Decodes and encodes frames, the newest one mostly once.

    A thread that was taken for stuck may come back amid a frame while another one reads the next,
    so what is known of a frame is replaced as a whole.
    """

    def __init__(self, encoder: Encoder, max_pixels: int) -> None:
        """Read with an encoder frames of at most so many pixels."""
        self._encoder = encoder
        self._max_pixels = max_pixels
        self._seen: _Seen | None = None

    def newest(self, newest: Frame, since_sec: float) -> Frame:
        """Return the frame that a request for the newest one is about.

        Where one came after the request did and is embedded already, that is it: a camera never
        stops, and the work for requests that wait together would be done for each of them anew.

        Args:
            newest: The newest frame received.
            since_sec: When the request came, on the steady clock.
        """
        seen = self._seen
        if seen is not None and seen.scene is not None and seen.frame.received_sec >= since_sec:
            return seen.frame
        return newest

    def image(self, frame: Frame) -> RgbImage:
        """Return the frame's picture.

        Raises:
            InvalidInputError: If it is malformed, too large or of an unknown encoding.
        """
        return self._see(frame).image

    def scene(self, frame: Frame) -> Embeddings:
        """Return the frame's embedding, shape ``(dim,)``.

        Raises:
            InvalidInputError: If the frame is malformed or of an unknown encoding.
        """
        seen = self._see(frame)
        if seen.scene is None:
            scene = self._encoder.encode_images([seen.image])[0]
            self._seen = _Seen(frame, seen.image, scene)
            return scene
        return seen.scene

    def has_embedded(self, frame: Frame) -> bool:
        """Return whether the frame's embedding is known."""
        seen = self._seen
        return seen is not None and seen.frame.number == frame.number and seen.scene is not None

    def took_ahead_sec(self, frame: Frame) -> float:
        """Return how long somebody else took to embed the frame, in seconds, or 0."""
        seen = self._seen
        return seen.took_sec if seen is not None and seen.frame.number == frame.number else 0.0

    def keep(self, image: RgbImage, scene: Embeddings, took_sec: float) -> None:
        """Take the embedding, shape ``(dim,)``, that somebody else has made of a frame.

        It is dropped where another frame was read meanwhile.

        Args:
            image: What ``image`` returned.
            scene: Its embedding.
            took_sec: That this took.
        """
        seen = self._seen
        if seen is not None and seen.image is image:
            self._seen = _Seen(seen.frame, image, scene, took_sec)

    def _see(self, frame: Frame) -> _Seen:
        seen = self._seen
        if seen is None or seen.frame.number != frame.number:
            seen = _Seen(frame, to_rgb(frame.message, "image", self._max_pixels))
            self._seen = seen
        return seen
