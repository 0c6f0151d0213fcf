"""The nouns of the library, as plain immutable data.

Nothing here imports ROS, torch or faiss. Arrays state their shape and dtype where they stand.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias, get_type_hints

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError

Embeddings: TypeAlias = NDArray[np.float32]
"""Float32, shape ``(n, dim)`` or ``(dim,)``, rows L2-normalised unless said otherwise."""

RgbImage: TypeAlias = NDArray[np.uint8]
"""Uint8, shape ``(height, width, 3)``, channels in RGB order."""

_LONGEST_SIDE = 2**32 - 1  # what a message holds

MAX_INSTRUCTION_BYTES = 10_000
"""Longest instruction that is taken, in UTF-8 bytes; no tower reads as much as this."""


class Target(enum.Enum):
    """What a query is compared with."""

    SCENES = "scenes"
    INSTRUCTIONS = "instructions"
    PAIR = "pair"


class Similarity(enum.Enum):
    """How two embeddings are compared; higher is better in each."""

    COSINE = "cosine"
    DOT = "dot"
    NEGATIVE_L2 = "negative_l2"


class Modality(enum.Enum):
    """One half of an entry, or of a query."""

    SCENE = "scene"
    INSTRUCTION = "instruction"

    # Members are single objects. Enum's own hash is a function in Python, called in each search
    # for every look into a dict by modality.
    __hash__ = object.__hash__


class Outcome(enum.IntEnum):
    """How an episode ended; the values are those of the ROS message."""

    UNKNOWN = 0
    SUCCESS = 1
    FAILURE = 2


class Known(enum.IntEnum):
    """Whether the memory holds anything like a query; the values are those of the ROS message."""

    NOT_CALIBRATED = 0
    YES = 1
    NO = 2


@dataclass(frozen=True)
class Fingerprint:
    """What embeddings were made with. Two are comparable only when all of it is equal.

    Attributes:
        model: open_clip model name.
        weights: Hash of the weights, ``"sha256:<hex>"``.
        preprocessing: Image size, mean, std, interpolation and resize mode, as one string.
        dim: Length of an embedding.
        normalized: Whether embeddings have unit length.
        head: Hash of the learned head that projected them, ``"sha256:<hex>"``; empty for the
            encoder's own.
    """

    model: str
    weights: str
    preprocessing: str
    dim: int
    normalized: bool = True
    head: str = ""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint that a file describes.

        Args:
            plain: As ``dataclasses.asdict`` gives it.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
        """
        found = cls(**plain)
        for name, kind in get_type_hints(cls).items():
            value = getattr(found, name)
            if type(value) is not kind:
                raise TypeError(f"{name}: expected {kind.__name__}, got {value!r:.40}")
        return found

    def __str__(self) -> str:
        """Return one line that a person can compare."""
        norm = "unit" if self.normalized else "raw"
        head = f" head={self.head[:19]}" if self.head else ""
        return f"{self.model} {self.weights[:19]} {self.preprocessing} dim={self.dim} {norm}{head}"


@dataclass(frozen=True)
class Action:
    """What the robot did in an episode, as a policy reads it.

    Attributes:
        space: Name of the action space.
        shape: Row-major shape of ``values``.
        values: Float32, shape ``(prod(shape),)``, in the units that the action space defines.

    Raises:
        InvalidInputError: If the shape does not hold the values or a side is no uint32, the space
            has no name, or a value is not finite.
    """

    space: str
    shape: tuple[int, ...]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check that the shape holds the values."""
        if not all(0 <= side <= _LONGEST_SIDE for side in self.shape):
            raise InvalidInputError(
                "action.shape", f"sides from 0 to {_LONGEST_SIDE}", str(list(self.shape))
            )
        count = math.prod(self.shape) if self.shape else 0
        if count != self.values.size:
            raise InvalidInputError(
                "action.shape", f"a product of {self.values.size}, the number of values",
                f"{list(self.shape)} with product {count}",
            )  # fmt: skip
        if self.values.size and not self.space:
            raise InvalidInputError("action.space", "the name of the action space", "''")
        if not np.isfinite(self.values).all():
            raise InvalidInputError("action.values", "finite numbers", "NaN or infinity")


@dataclass(frozen=True)
class CameraPose:
    """Pose of the camera.

    Attributes:
        frame_id: Frame that the pose is given in.
        stamp_ns: Nanoseconds since the epoch.
        position: x, y, z in metres.
        orientation: Quaternion x, y, z, w.

    Raises:
        InvalidInputError: If there are more or fewer numbers, one is not finite, or the quaternion
            has no length.
    """

    frame_id: str
    stamp_ns: int
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        """Check that the pose is one."""
        _check_count("camera_pose.pose.position", self.position, 3)
        _check_count("camera_pose.pose.orientation", self.orientation, 4)
        if not all(math.isfinite(v) for v in (*self.position, *self.orientation)):
            raise InvalidInputError("camera_pose", "finite numbers", "NaN or infinity")
        if not any(self.orientation):
            raise InvalidInputError(
                "camera_pose.pose.orientation", "a quaternion of length 1", "all zeros",
                "Set w to 1 for no rotation, or has_camera_pose to false.",
            )  # fmt: skip


@dataclass(frozen=True)
class NewEntry:
    """A scene-instruction pair that is to be stored, without its embeddings.

    Attributes:
        instruction: Not empty, at most ``MAX_INSTRUCTION_BYTES`` bytes of UTF-8.
        stamp_ns: When the scene was seen, nanoseconds since the epoch, at least 0.
        thumbnail: JPEG bytes, or empty.
        pinned: Whether it is never evicted to make room.

    Raises:
        InvalidInputError: If a field is out of its range.
    """

    instruction: str
    stamp_ns: int
    frame_id: str = ""
    episode_id: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    action: Action | None = None
    camera_pose: CameraPose | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    thumbnail: bytes = b""
    pinned: bool = False

    def __post_init__(self) -> None:
        """Check the fields that have a range."""
        check_instruction(self.instruction)
        if type(self.stamp_ns) is not int:  # the quicker question: there are many entries
            if not isinstance(self.stamp_ns, Integral):
                raise InvalidInputError("stamp", "whole nanoseconds", repr(self.stamp_ns))
            object.__setattr__(self, "stamp_ns", int(self.stamp_ns))  # numpy's own, for SQLite
        if self.stamp_ns < 0:
            raise InvalidInputError("stamp", "a time since 1970", f"{self.stamp_ns} ns")
        check_member("outcome", self.outcome, Outcome)
        if isinstance(self.tags, str):
            raise InvalidInputError("tags", "several labels", repr(self.tags))
        if len(set(self.tags)) != len(self.tags) or "" in self.tags:
            raise InvalidInputError("tags", "different, non-empty labels", str(list(self.tags)))
        if "" in self.metadata:
            raise InvalidInputError("metadata", "non-empty keys", "an empty key")


@dataclass(frozen=True)
class Entry(NewEntry):
    """A stored entry.

    Attributes:
        entry_id: From 1 on; stable, and never given out twice.
        merged: How many near-duplicates of it were not stored.
    """

    entry_id: int = 0
    merged: int = 0


@dataclass(frozen=True)
class Remembered:
    """What became of one pair.

    Attributes:
        entry_id: Its own, or that of the stored entry that it repeats.
        merged: Whether it was a near-duplicate, which is counted there and not stored.
        evicted_ids: Entries that went to make room.
    """

    entry_id: int
    merged: bool
    evicted_ids: tuple[int, ...]


@dataclass(frozen=True)
class Nearby:
    """A ball around a position.

    Attributes:
        position: x, y, z in metres.
        radius_m: Metres, above 0; the surface belongs to it.
        frame_id: Frame that the position is given in. Poses in other frames are not near.

    Raises:
        InvalidInputError: If a number is not finite or the radius is not above 0.
    """

    position: tuple[float, float, float]
    radius_m: float
    frame_id: str = ""

    def __post_init__(self) -> None:
        """Check that it is a ball."""
        _check_count("filter.near", self.position, 3)
        if not all(math.isfinite(v) for v in self.position):
            raise InvalidInputError("filter.near", "finite numbers", str(list(self.position)))
        if not (math.isfinite(self.radius_m) and self.radius_m > 0):
            raise InvalidInputError(
                "filter.near_radius_m", "a finite number above 0", str(self.radius_m)
            )


@dataclass(frozen=True)
class Filter:
    """Which entries a query may find: every part that is set must hold.

    Attributes:
        stamp_from_ns: Earliest stamp, included; None is open.
        stamp_to_ns: Latest stamp, included; None is open.
        episode_ids: The entry's episode is one of these; empty is any. So for the next two.
        tags: The entry has all of these.
        metadata: The entry's metadata has each key with exactly this value.
        exclude_ids: The entry is none of these.
        near: The entry's camera pose is in this ball; entries without a pose are not.

    Raises:
        InvalidInputError: If the time range is empty, or a field is of another type.
    """

    stamp_from_ns: int | None = None
    stamp_to_ns: int | None = None
    episode_ids: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    frame_ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    exclude_ids: tuple[int, ...] = ()
    near: Nearby | None = None

    def __post_init__(self) -> None:
        """Check that the time range is not empty."""
        for name in ("episode_ids", "frame_ids", "tags"):
            if isinstance(getattr(self, name), str):  # which would be taken for its letters
                raise InvalidInputError(
                    f"filter.{name}", "several of them", repr(getattr(self, name))
                )
        for outcome in self.outcomes:
            check_member("filter.outcomes", outcome, Outcome)
        begin, end = self.stamp_from_ns, self.stamp_to_ns
        if begin is not None and end is not None and begin > end:
            raise InvalidInputError(
                "filter.stamp_from", f"a time up to filter.stamp_to ({end} ns)", f"{begin} ns"
            )

    @property
    def passes_all(self) -> bool:
        """Whether no part is set."""
        return self is EVERYTHING or self == EVERYTHING


EVERYTHING = Filter()
"""Lets all entries pass."""


@dataclass(frozen=True)
class Query:
    """What is asked.

    Attributes:
        image: The query image, or None.
        instruction: The query instruction, or None.
        scene_weight: In [0, 1]. With ``Target.PAIR`` the weight of the scene's score; with
            another target and both query parts, the weight of the image's score.
        k: Most matches wanted, from 1 on.
        min_score: Matches below it are left out.
        diversity: In [0, 1]. 0 ranks by score; above, a match that resembles those before it
            comes later or not at all; from the 501st on by score (``vla_retrieval/diversity.py``).

    Raises:
        InvalidInputError: If a field is out of its range, or both query parts are missing.
    """

    image: RgbImage | None = None
    instruction: str | None = None
    target: Target = Target.SCENES
    scene_weight: float = 0.5
    k: int = 10
    min_score: float = -math.inf
    filter: Filter = field(default_factory=Filter)
    diversity: float = 0.0

    def __post_init__(self) -> None:
        """Check each field against its range."""
        if self.image is None and self.instruction is None:
            raise InvalidInputError("query", "an image, an instruction or both", "neither")
        if self.instruction is not None:
            check_instruction(self.instruction)
        check_member("target", self.target, Target)
        for name in ("scene_weight", "diversity"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0.0 <= float(value) <= 1.0):
                raise InvalidInputError(name, "a number in [0, 1]", repr(value))
        if not (isinstance(self.k, Integral) and self.k >= 1):
            raise InvalidInputError("k", "a whole number from 1 on", repr(self.k))
        if not isinstance(self.min_score, Real) or math.isnan(self.min_score):
            raise InvalidInputError("min_score", "a number", repr(self.min_score))
        if not isinstance(self.filter, Filter):
            raise InvalidInputError("filter", "a Filter", repr(self.filter))


@dataclass(frozen=True)
class Probe:
    """One vector to compare with one half of the entries.

    Attributes:
        modality: Which half.
        vector: Float32, shape ``(dim,)``.
        weight: Weight of this comparison in the score, in [0, 1].
        source: What the vector was made from. An approximate index searches harder where it
            differs from ``modality``; None lets it assume the harder case.
    """

    modality: Modality
    vector: Embeddings
    weight: float = 1.0
    source: Modality | None = None


class Candidate(NamedTuple):
    """An index hit, not yet ranked.

    Attributes:
        scene_score: Similarity with the entry's scene before weighting; NaN if not compared.
        instruction_score: The same for its instruction.
    """

    entry_id: int
    score: float
    scene_score: float = math.nan
    instruction_score: float = math.nan


@dataclass(frozen=True)
class Match:
    """A ranked candidate with its entry. ``rank`` starts at 1."""

    entry: Entry
    rank: int
    score: float
    scene_score: float = math.nan
    instruction_score: float = math.nan


@dataclass
class StageTimes:
    """Seconds per stage of one query; 0 where a stage was not needed."""

    queue_sec: float = 0.0
    decode_sec: float = 0.0
    encode_image_sec: float = 0.0
    encode_instruction_sec: float = 0.0
    filter_sec: float = 0.0
    search_sec: float = 0.0
    fetch_sec: float = 0.0
    total_sec: float = 0.0


@dataclass(frozen=True)
class Retrieval:
    """The answer to one query.

    Attributes:
        matches: Best first.
        memory_size: Entries in the memory when it was searched.
        eligible_size: How many of them passed the filter.
        exact: Whether no other entry would rank among these; an approximate index may miss some.
        known: Whether anything that passed the filter is like the query. ``NO`` where nothing
            passed; else ``NOT_CALIBRATED`` where no calibration applies (``calibration.py``).
        known_confidence: In [0, 1], how sure it is that something is: 0 where nothing passed, NaN
            when not calibrated.
        head: Digest of the head that projected what was compared; empty without one.
        head_method: How that head was learned; empty without one.
    """

    matches: tuple[Match, ...]
    memory_size: int
    eligible_size: int
    exact: bool
    times: StageTimes
    known: Known = Known.NOT_CALIBRATED
    known_confidence: float = math.nan
    head: str = ""
    head_method: str = ""


def _check_count(field_name: str, numbers: Sized, count: int) -> None:
    if len(numbers) != count:
        raise InvalidInputError(field_name, f"{count} numbers", f"{len(numbers)} numbers")


def check_member(field_name: str, value: object, of: type[enum.Enum]) -> None:
    """Raise InvalidInputError unless a value is a member of an enumeration.

    A member's value, or a number of the ROS messages, is none: it would be taken for another one.
    """
    if not isinstance(value, of):
        expected = f"one of {', '.join(f'{of.__name__}.{member.name}' for member in of)}"
        raise InvalidInputError(field_name, expected, repr(value))


def check_instruction(instruction: str) -> None:
    """Raise InvalidInputError unless the instruction is text of a sensible length.

    Raises:
        InvalidInputError: If it is no text, empty, only white space, too long, or not valid
            Unicode.
    """
    if not isinstance(instruction, str):
        raise InvalidInputError("instruction", "text", repr(instruction))
    if not instruction.strip():
        raise InvalidInputError("instruction", "text", repr(instruction[:20]))
    try:
        size = len(instruction.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError("instruction", "valid Unicode", str(error)) from None
    if size > MAX_INSTRUCTION_BYTES:
        raise InvalidInputError(
            "instruction", f"at most {MAX_INSTRUCTION_BYTES} bytes of UTF-8", f"{size} bytes"
        )
