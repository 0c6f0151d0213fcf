"""Frames that are made when they are looked at, so that those of a long bag take little RAM."""

from __future__ import annotations

import bisect
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_retrieval.evaluation.bags import Bag, Cursor, Place
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.recorded import RecordedPicture


class _Frames(Sequence[Frame]):
    """What the kinds of lists below have in common; a slice is a list of the same frames."""

    @overload
    def __getitem__(self, at: int) -> Frame: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Frame]: ...
    def __getitem__(self, at: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(at, slice):
            return Chosen(self, np.arange(len(self), dtype=np.int64)[at])
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"frame {at} of {len(self)}")
        return self._made(place)

    def __iter__(self) -> Iterator[Frame]:
        return map(self._made, range(len(self)))

    @abstractmethod
    def _made(self, place: int) -> Frame:
        """Make the frame at a place from 0 on."""


class Chosen(_Frames):
    """Some frames of a list.

    Args:
        frames: The list.
        positions: In it, int64, shape ``(n,)``, in the order wanted.
    """

    def __init__(self, frames: Sequence[Frame], positions: ArrayLike) -> None:
        """Look at none of them yet."""
        self._frames: Sequence[Frame] = frames
        self._positions: NDArray[np.int64] = np.asarray(positions, dtype=np.int64)
        if isinstance(frames, Chosen):
            self._frames = frames._frames
            self._positions = frames._positions[self._positions]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._positions)

    def __iter__(self) -> Iterator[Frame]:
        """Look at each of them once."""
        return map(self._frames.__getitem__, map(int, self._positions))

    def _made(self, place: int) -> Frame:
        return self._frames[int(self._positions[place])]


class _Joined(_Frames):
    def __init__(self, parts: Sequence[Sequence[Frame]]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _made(self, place: int) -> Frame:
        part = bisect.bisect_right(self._ends, place)
        return self._parts[part][place - (self._ends[part - 1] if part else 0)]


def joined(parts: Sequence[Sequence[Frame]]) -> Sequence[Frame]:
    """Return the frames of some lists, one list after the other."""
    return parts[0] if len(parts) == 1 else _Joined(parts)


class Words(NamedTuple):
    """The texts that numbers in a ``FrameTable`` stand for."""

    topics: Sequence[str]
    frame_ids: Sequence[str]
    instructions: Sequence[str]


_ROW = np.dtype(
    [(name, "i8") for name in ("stamp_ns", "received_ns", "index")]
    + [(name, "u4") for name in ("file", "ordinal", "topic", "frame_id", "instruction", "episode",
                                 "repeat")]
)  # fmt: skip


class FrameTable(_Frames):
    """The frames of one bag, 60 bytes each.

    Args:
        bag: Where they are recorded.
        words: That topics, frame ids and instructions have.
        columns: Name to integers from 0 on, each of shape ``(n,)``, for the names of ``_ROW`` but
            the last. Rows are in the order of stamps.
    """

    def __init__(self, bag: Bag, words: Words, columns: dict[str, NDArray[np.int64]]) -> None:
        """Look at no picture yet."""
        self._bag = bag
        self._words = words
        self._rows = np.empty(len(columns["index"]), _ROW)
        for name, values in columns.items():
            self._rows[name] = values
        self._rows["repeat"] = _repeats(columns["stamp_ns"], columns["topic"])
        self._cursor = Cursor(bag, words.topics)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    def _made(self, place: int) -> Frame:
        (
            stamp_ns, received_ns, index, file, ordinal, topic_number, frame_id, instruction,
            episode, repeat,
        ) = self._rows[place].item()  # fmt: skip
        bag, words, topic = self._bag.name, self._words, self._words.topics[topic_number]
        query_id = f"{bag}:{topic}@{stamp_ns}" + (f"#{repeat + 1}" if repeat else "")
        at = Place(file, topic, received_ns, ordinal)
        picture = RecordedPicture(self._bag, self._cursor, at)
        return Frame(
            query_id, bag, topic, stamp_ns, received_ns, words.frame_ids[frame_id],
            words.instructions[instruction], f"{bag}-{episode + 1:04d}", index, picture,
            picture.message,
        )  # fmt: skip


def _repeats(stamps: NDArray[np.int64], topics: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return how many rows before each have its stamp and topic, shape ``(n,)``."""
    order = np.lexsort((np.arange(len(stamps)), topics, stamps))
    begins = np.ones(len(order), bool)
    begins[1:] = (np.diff(stamps[order]) != 0) | (np.diff(topics[order]) != 0)
    starts = np.flatnonzero(begins)
    repeats = np.zeros(len(order), np.uint32)
    repeats[order] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return repeats
