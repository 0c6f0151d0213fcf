"""Reads bags: pairs each image with the instruction in force at its stamp, and cuts episodes.

A bag is read twice, in constant memory for pictures: once for stamps, instructions and markers, and
again for the pictures, when somebody asks for them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bags import Bag, Message, bag_names
from vla_retrieval.evaluation.decoding import header_stamp_ns
from vla_retrieval.evaluation.episodes import EpisodeRule, in_force, number_episodes, runs_of
from vla_retrieval.evaluation.frame_lists import FrameTable, Words
from vla_retrieval.evaluation.frames import ReadOptions, Recording
from vla_retrieval.evaluation.relevance import normalise
from vla_retrieval.evaluation.topics import COMPRESSED_IMAGE, ChosenTopics, choose_topics
from vla_retrieval.images import check_compressed, check_raw
from vla_retrieval.types import check_instruction

_OTHER_CLOCK_SEC = 60
_NS_PER_SEC = 1_000_000_000


def read_recordings(
    paths: Sequence[Path], options: ReadOptions | None = None
) -> tuple[Recording, ...]:
    """Read bags, named as ``bag_names`` names them.

    Raises:
        InvalidInputError: If there is no bag, one comes twice, or as ``read_recording``.
    """
    if not paths:
        raise InvalidInputError("bags", "at least one bag", "none")
    _check_different(paths)
    chosen = options or ReadOptions()
    names = bag_names(paths)
    return tuple(
        read_recording(Bag(path, name), chosen) for path, name in zip(paths, names, strict=True)
    )


def _check_different(paths: Sequence[Path]) -> None:
    """Refuse a bag that comes twice: its frames would ask for themselves."""
    seen: dict[Path, Path] = {}
    for path in paths:
        place = path.resolve()
        for other, given in seen.items():
            if place == other or other in place.parents or place in other.parents:
                raise InvalidInputError(
                    "bags", "each bag once", f"{given} and {path}, which are the same recording",
                    "Its frames would be in the memory and ask for themselves: leave one out.",
                )  # fmt: skip
        seen[place] = path


def read_recording(bag: Bag, options: ReadOptions) -> Recording:
    """Read a bag's frames, without their pictures.

    Raises:
        InvalidInputError: If the topics are not clear (``choose_topics``), or there is no
            readable image, no instruction, or no image with an instruction in force.
    """
    topics = choose_topics(bag.topics, options.topics, bag.decoder.text_field, bag.name)
    scan = _Scan(bag, topics, options.stamps)
    for message in bag.messages({*topics.images, topics.instruction, topics.marker} - {""}):
        scan.take(message)
    scan.check()
    return scan.recording(options.episodes)


def image_type(paths: Sequence[Path], options: ReadOptions | None = None) -> str:
    """Return the message type of bags' images, without reading the bags through.

    Raises:
        InvalidInputError: If topics are not clear, or some are raw and others compressed.
    """
    kinds: dict[str, str] = {}
    for path in paths:
        topics, types = recorded_topics(path, options)
        kinds |= {f"{bag_names([path])[0]}:{name}": types[name] for name in topics.images}
    if len(set(kinds.values())) != 1:
        got = ", ".join(f"{name}: {kind}" for name, kind in sorted(kinds.items()))
        raise InvalidInputError(
            "--image-topic", "topics of one type, raw or compressed", got or "none"
        )
    return next(iter(kinds.values()))


def recorded_topics(
    path: Path, options: ReadOptions | None = None
) -> tuple[ChosenTopics, Mapping[str, str]]:
    """Return which topics of a bag are read, and topic to message type, without reading it through.

    Raises:
        InvalidInputError: If the topics are not clear (``choose_topics``).
    """
    bag = Bag(path)
    try:
        chosen = choose_topics(
            bag.topics, (options or ReadOptions()).topics, bag.decoder.text_field, bag.name
        )
        return chosen, {topic.name: topic.msgtype for topic in bag.topics}
    finally:
        bag.close()


class _Numbers:
    """Numbers texts in the order in which they first come."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._number_of = {text: number for number, text in enumerate(texts)}

    def __call__(self, text: str) -> int:
        return self._number_of.setdefault(text, len(self._number_of))

    @property
    def texts(self) -> list[str]:
        return list(self._number_of)


class _Rows:
    """Rows of integers, some bytes each, where tuples of Python's would take hundreds."""

    def __init__(self, *names: str) -> None:
        self._columns = {name: array("q") for name in names}

    def __len__(self) -> int:
        return min(map(len, self._columns.values()))

    def append(self, *values: int) -> None:
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def sorted_by(self, *names: str) -> dict[str, NDArray[np.int64]]:
        """Return name to column, by the first name, then the second, and so on."""
        columns = {name: np.array(column, np.int64) for name, column in self._columns.items()}
        order = np.lexsort([columns[name] for name in reversed(names)])
        return {name: column[order] for name, column in columns.items()}


class _Scan:
    """One reading of a bag."""

    def __init__(self, bag: Bag, topics: ChosenTopics, stamps: str) -> None:
        self._bag = bag
        self._topics = topics
        self._by_header = stamps == "header"
        # In this order, both storages of one bag agree on who comes first of equal stamps.
        self._topic_numbers = _Numbers(sorted(topics.images))
        self._frame_ids = _Numbers()
        self._texts = _Numbers([""])
        self._seen = _Rows("stamp_ns", "received_ns", "file", "topic", "ordinal", "frame_id")
        self._given = _Rows("stamp_ns", "received_ns", "text")
        self._markers = array("q")
        self._refused: Counter[str] = Counter()
        self._first_refusals: dict[str, str] = {}
        self._unread: Counter[str] = Counter()

    def take(self, message: Message) -> None:
        """Take what a message says. What cannot be read is counted."""
        topic = message.place.topic
        try:
            content = self._bag.decode(message)
            stamp_ns = self._stamp(content, message)
            if topic in self._topics.images:
                self._take_image(content, message, stamp_ns)
            elif topic == self._topics.instruction:
                self._take_instruction(content, message, stamp_ns)
        except InvalidInputError as error:
            # A marker of a type that nobody defines still says when.
            stamp_ns = message.place.received_ns
            if topic != self._topics.marker:
                self._refuse(topic, error)
        if topic == self._topics.marker:
            self._markers.append(stamp_ns)

    def _stamp(self, content: Any, message: Message) -> int:
        header_ns = header_stamp_ns(content) if self._by_header else 0
        return header_ns if header_ns > 0 else message.place.received_ns

    def _take_image(self, content: Any, message: Message, stamp_ns: int) -> None:
        check = check_compressed if message.msgtype == COMPRESSED_IMAGE else check_raw
        try:
            check(content, "image")
        except InvalidInputError as error:
            encoding = getattr(content, "encoding", "")
            what = f"{error.field} {encoding!r}" if "encoding" in error.field else error.field
            self._refuse(what, error)
            return
        at = message.place
        self._seen.append(
            stamp_ns, at.received_ns, at.file, self._topic_numbers(at.topic), at.ordinal,
            self._frame_ids(content.header.frame_id),
        )  # fmt: skip

    def _take_instruction(self, content: Any, message: Message, stamp_ns: int) -> None:
        text = str(getattr(content, self._bag.decoder.text_field(message.msgtype)))
        if text.strip():
            check_instruction(text)
        number = self._texts(text.strip() and text)
        self._given.append(stamp_ns, message.place.received_ns, number)

    def _refuse(self, what: str, error: InvalidInputError) -> None:
        is_image = what != self._topics.instruction
        reason = "unreadable message" if what in self._topics.images else what
        (self._refused if is_image else self._unread)[reason] += 1
        self._first_refusals.setdefault(reason, str(error))

    def check(self) -> None:
        """Raise InvalidInputError where there is nothing to evaluate."""
        name = self._bag.name
        if not self._seen:
            reasons = "; ".join(self._first_refusals.values()) or "none"
            expected = f"a readable image on {', '.join(self._topics.images)}"
            raise InvalidInputError("bag", expected, f"{name} with none: {reasons}")
        if self._texts.texts == [""]:
            expected = f"an instruction on {self._topics.instruction}"
            reason = self._first_refusals.get(self._topics.instruction, "only empty ones")
            raise InvalidInputError("bag", expected, f"{name} with none: {reason}")

    def recording(self, rule: EpisodeRule) -> Recording:
        """Return what was found; raise InvalidInputError without an instruction in force."""
        seen = self._seen.sorted_by("stamp_ns", "received_ns", "file", "topic", "ordinal")
        given = self._given.sorted_by("stamp_ns", "received_ns")
        positions = in_force(seen["stamp_ns"], given["stamp_ns"])
        kept = np.flatnonzero((positions >= 0) & (given["text"][positions] > 0))
        before = int(np.count_nonzero(positions < 0))
        if not len(kept):
            raise self._nothing_in_force(before)
        after = len(self._seen) - before - len(kept)
        return Recording(
            self._bag.name,
            self._frames(seen, given["text"], positions, kept, rule),
            len(self._seen) + self._refused.total(),
            before,
            after,
            dict(sorted(self._refused.items())),
            self._notes(before, after),
        )

    def _frames(
        self,
        seen: dict[str, NDArray[np.int64]],
        texts: NDArray[np.int64],
        positions: NDArray[np.int64],
        kept: NDArray[np.int64],
        rule: EpisodeRule,
    ) -> FrameTable:
        """Return the frames of the images at ``kept``, with the instructions at ``positions``."""
        columns = {name: column[kept] for name, column in seen.items()}
        columns["instruction"] = texts[positions[kept]]
        columns["index"] = kept
        # Said again with another full stop, it would part two frames that are nearly one picture,
        # and one of them would answer for the other.
        number_of = _Numbers()
        as_compared = np.array([number_of(normalise(text)) for text in self._texts.texts])
        columns["episode"] = number_episodes(
            columns["stamp_ns"], runs_of(as_compared[texts])[positions[kept]], self._markers, rule
        )
        words = Words(self._topic_numbers.texts, self._frame_ids.texts, self._texts.texts)
        return FrameTable(self._bag, words, columns)

    def _nothing_in_force(self, before: int) -> InvalidInputError:
        got = f"{self._bag.name} with {len(self._seen)} images, {before} before any instruction"
        return InvalidInputError(
            "bag", "images with an instruction in force", got, self._other_clock()
        )

    def _other_clock(self) -> str:
        """Say that headers and recorder disagree about the time, or nothing."""
        seen = self._seen.sorted_by("stamp_ns")
        offset_sec = float(np.median(seen["stamp_ns"] - seen["received_ns"])) / _NS_PER_SEC
        if abs(offset_sec) < _OTHER_CLOCK_SEC:
            return ""
        return (
            f"{self._bag.name}: the images' headers are {offset_sec:+.0f} s off the receipt, "
            "which stands for the stamp of instructions without a header; --stamps received takes "
            "it for images too."
        )

    def _notes(self, before: int, after: int) -> tuple[str, ...]:
        name = self._bag.name
        notes = [*self._topics.notes, *(f"{name}: {s}." for s in self._bag.damage)]
        if before:
            notes.append(f"{name}: {before} image(s) before any instruction are left out.")
        if after:
            notes.append(f"{name}: {after} image(s) after an instruction ended are left out.")
        for reason, count in sorted(self._refused.items()):
            first = self._first_refusals[reason]
            notes.append(f"{name}: {count} image(s) left out for {reason} (the first: {first})")
        for topic, count in sorted(self._unread.items()):
            first = self._first_refusals[topic]
            notes.append(f"{name}: {count} message(s) of {topic} left out (the first: {first})")
        if other := self._other_clock():
            notes.append(other)
        return tuple(notes)
