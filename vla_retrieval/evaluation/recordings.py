"""Reads bags: pairs each image with the instruction in force at its stamp, and cuts episodes.

A bag is read twice, in constant memory for pictures: once for stamps, instructions and markers, and
again for the pictures, when somebody asks for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bags import Bag, Cursor, Message, Place, bag_names
from vla_retrieval.evaluation.decoding import header_stamp_ns
from vla_retrieval.evaluation.episodes import EpisodeRule, in_force, number_episodes, runs_of
from vla_retrieval.evaluation.frames import Frame, ReadOptions, Recording
from vla_retrieval.evaluation.topics import COMPRESSED_IMAGE, ChosenTopics, choose_topics
from vla_retrieval.images import (
    check_compressed,
    check_raw,
    compressed_to_rgb,
    raw_to_rgb,
    rosbags_converter,
)
from vla_retrieval.types import RgbImage, check_instruction

_OTHER_CLOCK_SEC = 60
_NS_PER_SEC = 1_000_000_000


def read_recordings(
    paths: Sequence[Path], options: ReadOptions | None = None
) -> tuple[Recording, ...]:
    """Read bags, named as ``bag_names`` names them.

    Raises:
        InvalidInputError: If there is no bag, or as ``read_recording``.
    """
    if not paths:
        raise InvalidInputError("bags", "at least one bag", "none")
    chosen = options or ReadOptions()
    names = bag_names(paths)
    return tuple(
        read_recording(Bag(path, name), chosen) for path, name in zip(paths, names, strict=True)
    )


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
    topics = (options or ReadOptions()).topics
    kinds: dict[str, str] = {}
    for bag in map(Bag, paths):
        chosen = choose_topics(bag.topics, topics, bag.decoder.text_field, bag.name)
        types = {topic.name: topic.msgtype for topic in bag.topics}
        kinds |= {f"{bag.name}:{name}": types[name] for name in chosen.images}
        bag.close()
    if len(set(kinds.values())) != 1:
        got = ", ".join(f"{name}: {kind}" for name, kind in sorted(kinds.items()))
        raise InvalidInputError(
            "--image-topic", "topics of one type, raw or compressed", got or "none"
        )
    return next(iter(kinds.values()))


class _Seen(NamedTuple):
    """An image message, as far as it is kept."""

    stamp_ns: int
    place: Place
    frame_id: str


class _Given(NamedTuple):
    """An instruction message; an empty text ends the instruction in force."""

    stamp_ns: int
    received_ns: int
    text: str


class _Scan:
    """One reading of a bag."""

    def __init__(self, bag: Bag, topics: ChosenTopics, stamps: str) -> None:
        self._bag = bag
        self._topics = topics
        self._by_header = stamps == "header"
        self._seen: list[_Seen] = []
        self._given: list[_Given] = []
        self._markers: list[int] = []
        self._clock_offsets_ns: list[int] = []
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
        self._seen.append(_Seen(stamp_ns, message.place, content.header.frame_id))
        self._clock_offsets_ns.append(stamp_ns - message.place.received_ns)

    def _take_instruction(self, content: Any, message: Message, stamp_ns: int) -> None:
        text = str(getattr(content, self._bag.decoder.text_field(message.msgtype)))
        if text.strip():
            check_instruction(text)
        self._given.append(_Given(stamp_ns, message.place.received_ns, text.strip() and text))

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
        if not any(given.text for given in self._given):
            expected = f"an instruction on {self._topics.instruction}"
            reason = self._first_refusals.get(self._topics.instruction, "only empty ones")
            raise InvalidInputError("bag", expected, f"{name} with none: {reason}")

    def recording(self, rule: EpisodeRule) -> Recording:
        """Return what was found; raise InvalidInputError without an instruction in force."""
        # In order of stamps, and where those are equal, in an order that both storages agree on.
        self._seen.sort(key=lambda seen: (seen.stamp_ns, seen.place.received_ns, *seen.place))
        self._given.sort(key=lambda given: given[:2])
        positions = in_force([s.stamp_ns for s in self._seen], [g.stamp_ns for g in self._given])
        texts = [given.text for given in self._given]
        runs = runs_of(texts)
        kept = [n for n, at in enumerate(positions) if at >= 0 and texts[at]]
        before = int(np.count_nonzero(positions < 0))
        if not kept:
            raise self._nothing_in_force(before)
        numbers = number_episodes(
            [self._seen[n].stamp_ns for n in kept], [int(runs[positions[n]]) for n in kept],
            self._markers, rule,
        )  # fmt: skip
        words = [texts[positions[n]] for n in kept]
        return Recording(
            self._bag.name,
            self._frames(kept, words, numbers.tolist()),
            len(self._seen) + self._refused.total(),
            before,
            len(self._seen) - before - len(kept),
            dict(sorted(self._refused.items())),
            self._notes(before, len(self._seen) - before - len(kept)),
        )

    def _frames(self, kept: list[int], words: list[str], episodes: list[int]) -> tuple[Frame, ...]:
        cursor = Cursor(self._bag, self._topics.images)
        bag = self._bag.name
        names: Counter[str] = Counter()
        frames = []
        for index, text, episode in zip(kept, words, episodes, strict=True):
            seen = self._seen[index]
            query_id = f"{bag}:{seen.place.topic}@{seen.stamp_ns}"
            names[query_id] += 1
            if names[query_id] > 1:
                query_id += f"#{names[query_id]}"
            picture = _Picture(self._bag, cursor, seen.place)
            frames.append(
                Frame(
                    query_id, bag, seen.place.topic, seen.stamp_ns, seen.place.received_ns,
                    seen.frame_id, text, f"{bag}-{episode + 1:04d}", index, picture,
                    picture.message,
                )
            )  # fmt: skip
        return tuple(frames)

    def _nothing_in_force(self, before: int) -> InvalidInputError:
        got = f"{self._bag.name} with {len(self._seen)} images, {before} before any instruction"
        return InvalidInputError(
            "bag", "images with an instruction in force", got, self._other_clock()
        )

    def _other_clock(self) -> str:
        """Say that headers and recorder disagree about the time, or nothing."""
        offset_sec = float(np.median(self._clock_offsets_ns)) / _NS_PER_SEC
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


def picture_of(recorded: Any) -> RgbImage:
    """Return the picture in a recorded image message, raw or compressed, whatever decoded it.

    Returns:
        Uint8, shape ``(height, width, 3)``, RGB.

    Raises:
        InvalidInputError: If it turns out not to be one.
    """
    if hasattr(recorded, "encoding"):
        return raw_to_rgb(recorded, rosbags_converter())
    return compressed_to_rgb(recorded)


class _Picture:
    """Reads one picture when it is called."""

    def __init__(self, bag: Bag, cursor: Cursor, place: Place) -> None:
        self._bag, self._cursor, self._place = bag, cursor, place

    def message(self) -> Any:
        """Return the message as it was recorded."""
        return self._bag.decode(self._cursor.read(self._place))

    def __call__(self) -> RgbImage:
        """Return the picture."""
        return picture_of(self.message())
