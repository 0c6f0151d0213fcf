"""Which topics of a bag show scenes, and which one carries instructions.

A topic is found by its type and confirmed by its name. Where that leaves a choice, nobody guesses:
the error lists the candidates and the option that names one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bags import Topic

RAW_IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"

# In a topic's name, as words: the first row that any candidate meets decides.
_IMAGE_WORDS = (
    ("image", "img", "rgb", "color", "colour"),
    ("camera", "cam"),
)
_NO_PICTURE_WORDS = frozenset(
    ("depth", "disparity", "mask", "segmentation", "thermal", "infra", "infra1", "infra2", "ir",
     "debug", "sheet", "annotated", "overlay", "theora", "compresseddepth")
)  # fmt: skip
_INSTRUCTION_WORDS = (
    ("instruction", "instructions"),
    ("language", "prompt", "utterance", "command", "task", "speech", "text", "goal"),
)


@dataclass(frozen=True)
class TopicOptions:
    """What the user names. Empty parts are found.

    Attributes:
        images: Topics of cameras (option ``--image-topic``, for each camera).
        instruction: Topic of instructions (option ``--instruction-topic``).
        marker: Topic whose messages begin episodes (option ``--episode-topic``); empty: none.
    """

    images: tuple[str, ...] = ()
    instruction: str = ""
    marker: str = ""


@dataclass(frozen=True)
class ChosenTopics:
    """What is read of a bag.

    Attributes:
        images: At least one, of a type that carries pictures.
        instruction: Of a type with a text field.
        marker: Of any type, or empty.
        notes: Sentences about what was found and left aside.
    """

    images: tuple[str, ...]
    instruction: str
    marker: str = ""
    notes: tuple[str, ...] = field(default=())


def choose_topics(
    topics: Sequence[Topic],
    options: TopicOptions,
    text_field: Callable[[str], str],
    bag: str,
) -> ChosenTopics:
    """Choose what to read.

    Args:
        topics: The bag's.
        options: What the user named.
        text_field: From a message type to the field that holds words, or '' (``Decoder``'s).
        bag: Its name, for errors and notes.

    Raises:
        InvalidInputError: If a named topic is not there or of a wrong type, there is none that
            fits, or more than one.
    """
    notes: list[str] = []
    images = _named_images(topics, options.images, bag) or _find_images(topics, bag, notes)
    instruction = _instruction(topics, options.instruction, text_field, bag)
    marker = options.marker and _named(topics, options.marker, "--episode-topic", bag).name
    found = f"{bag}: scenes from {', '.join(images)}, instructions from {instruction}."
    return ChosenTopics(images, instruction, marker, (found, *notes))


def _words(name: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return set(re.split(r"[^0-9a-z]+", spaced.lower())) | {name.rsplit("/", 1)[-1].lower()}


def _is_image(topic: Topic) -> bool:
    return topic.msgtype in (RAW_IMAGE, COMPRESSED_IMAGE)


def _named(topics: Sequence[Topic], name: str, option: str, bag: str) -> Topic:
    found = next((t for t in topics if t.name in (name, f"/{name}")), None)
    if found is None:
        raise InvalidInputError(
            option, f"a topic of {bag}", name, f"It has: {_list(topics) or 'none'}."
        )
    return found


def _named_images(topics: Sequence[Topic], names: Sequence[str], bag: str) -> tuple[str, ...]:
    found = [_named(topics, name, "--image-topic", bag) for name in names]
    for topic in found:
        if not _is_image(topic):
            expected = f"a topic of {RAW_IMAGE} or {COMPRESSED_IMAGE}"
            got = f"{topic.name} of {topic.msgtype}"
            raise InvalidInputError("--image-topic", expected, got)
    return tuple(dict.fromkeys(topic.name for topic in found))


def _find_images(topics: Sequence[Topic], bag: str, notes: list[str]) -> tuple[str, ...]:
    held = [t for t in topics if _is_image(t) and t.count]
    if not held:
        expected = f"a topic of {RAW_IMAGE} or {COMPRESSED_IMAGE} with messages"
        raise InvalidInputError("bag", expected, f"{bag} with {_list(topics) or 'no topics'}")
    pictures = [t for t in held if not _words(t.name) & _NO_PICTURE_WORDS] or held
    single = _without_copies(pictures, bag, notes)
    best = _most_alike(single, _IMAGE_WORDS)
    if len(best) > 1:
        raise InvalidInputError(
            "--image-topic", "to know which camera shows the scenes",
            f"{len(best)} candidates in {bag}: {_list(best)}",
            "Name one with --image-topic, or give the option for each camera that counts.",
        )  # fmt: skip
    return (best[0].name,)


def _without_copies(topics: list[Topic], bag: str, notes: list[str]) -> list[Topic]:
    """Leave out the compressed copy of a raw topic: the same frames twice."""
    names = {t.name for t in topics}
    kept = []
    for topic in topics:
        base, _, last = topic.name.rpartition("/")
        if last == "compressed" and base in names:
            notes.append(f"{bag}: {topic.name} repeats {base} and is not read.")
        else:
            kept.append(topic)
    return kept


def _most_alike(topics: list[Topic], rows: Sequence[Sequence[str]]) -> list[Topic]:
    """Return the topics that meet the first row that any of them meets; all where none does."""
    for row in rows:
        if alike := [t for t in topics if _words(t.name) & set(row)]:
            return alike
    return topics


def _instruction(
    topics: Sequence[Topic], name: str, text_field: Callable[[str], str], bag: str
) -> str:
    if name:
        topic = _named(topics, name, "--instruction-topic", bag)
        if not text_field(topic.msgtype):
            expected = f"a topic of {STRING} or of a type with a text field"
            got = f"{topic.name} of {topic.msgtype}"
            raise InvalidInputError("--instruction-topic", expected, got)
        return topic.name
    every_word = {word for row in _INSTRUCTION_WORDS for word in row}
    confirmed = [
        t
        for t in topics
        if t.count and _words(t.name) & every_word and text_field(t.msgtype) and not _is_image(t)
    ]
    best = _most_alike(confirmed, _INSTRUCTION_WORDS)
    if len(best) == 1:
        return best[0].name
    strings = best or [t for t in topics if t.msgtype == STRING and t.count]
    # A lone topic of texts may as well carry a robot's description, so its name has to say more.
    got = f"candidates in {bag}: {_list(strings)}" if strings else f"none in {bag}"
    raise InvalidInputError(
        "--instruction-topic", "one topic whose name says that it carries instructions", got,
        "Name it with --instruction-topic." if strings else "Record the instructions too.",
    )  # fmt: skip


def _list(topics: Sequence[Topic]) -> str:
    return ", ".join(f"{t.name} ({t.msgtype}, {t.count} messages)" for t in topics)
