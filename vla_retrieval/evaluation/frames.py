"""Recorded frames, each with the instruction in force when it was seen, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.episodes import EpisodeRule
from vla_retrieval.evaluation.topics import TopicOptions
from vla_retrieval.types import RgbImage

STAMP_SOURCES = ("header", "received")


@dataclass(frozen=True)
class ReadOptions:
    """How bags are read.

    Attributes:
        topics: What the user names of them.
        episodes: What ends an episode.
        stamps: ``header``: a message's header says when it was, and the time of receipt where
            there is no header or its stamp is 0. ``received``: always the time of receipt.

    Raises:
        InvalidInputError: If ``stamps`` is neither.
    """

    topics: TopicOptions = field(default_factory=TopicOptions)
    episodes: EpisodeRule = field(default_factory=EpisodeRule)
    stamps: str = "header"

    def __post_init__(self) -> None:
        """Check the source of stamps."""
        if self.stamps not in STAMP_SOURCES:
            raise InvalidInputError("stamps", " or ".join(STAMP_SOURCES), repr(self.stamps))


@dataclass(frozen=True)
class Frame:
    """A recorded image and the instruction in force at its stamp.

    Attributes:
        query_id: Without spaces, different for each frame of an evaluation, and the same whenever
            the bag is read.
        bag: The bag's name.
        received_ns: When it was recorded.
        frame_id: Of the image's header.
        episode_id: Different for episodes of different bags.
        index: Position among all readable images of the bag, by stamp, from 0 on.
        image: Reads and decodes the picture: uint8, shape ``(height, width, 3)``, RGB. Quickest
            in the order of the frames. It raises InvalidInputError for a compressed image that
            turns out not to be one.
        message: Reads the recorded image message: an object with the fields of sensor_msgs/Image or
            CompressedImage, to be played again.
    """

    query_id: str
    bag: str
    topic: str
    stamp_ns: int
    received_ns: int
    frame_id: str
    instruction: str
    episode_id: str
    index: int
    image: Callable[[], RgbImage] = field(repr=False, compare=False)
    message: Callable[[], Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Recording:
    """What a bag holds for an evaluation.

    Attributes:
        frames: By stamp. They are made when they are looked at, each time anew.
        images: Image messages that were read, good or not.
        before_instruction: Images before the first instruction; they are no frames.
        after_instruction: Images after an empty instruction, which ends the one in force; no
            frames either.
        refused: Why images are no pictures -> how many.
        notes: Sentences about what was chosen and left out.
    """

    bag: str
    frames: Sequence[Frame]
    images: int
    before_instruction: int
    after_instruction: int
    refused: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def episodes(self) -> tuple[str, ...]:
        """Episode ids, in order."""
        return tuple(dict.fromkeys(frame.episode_id for frame in self.frames))
