"""Topics are found by type and confirmed by name; nobody guesses."""

from __future__ import annotations

import pytest

pytest.importorskip("rosbags")

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bags import Topic
from vla_retrieval.evaluation.topics import (
    COMPRESSED_IMAGE,
    RAW_IMAGE,
    STRING,
    ChosenTopics,
    TopicOptions,
    choose_topics,
)

STAMPED = "my_robot_msgs/msg/Instruction"


def text_field(msgtype: str) -> str:
    return {STRING: "data", STAMPED: "text"}.get(msgtype, "")


def choose(*topics: tuple[str, str], **options: object) -> ChosenTopics:
    found = [Topic(name, msgtype, 3) for name, msgtype in topics]
    return choose_topics(found, TopicOptions(**options), text_field, "bag")


SAID = ("/instruction", STRING)


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        ([("/front", RAW_IMAGE)], "/front"),
        ([("/camera/image_raw", RAW_IMAGE), ("/front", RAW_IMAGE)], "/camera/image_raw"),
        (
            [("/cam/color/image_raw", RAW_IMAGE), ("/cam/depth/image_rect_raw", RAW_IMAGE)],
            "/cam/color/image_raw",
        ),
        (
            [("/image", RAW_IMAGE), ("/image/compressed", COMPRESSED_IMAGE)],
            "/image",
        ),
        (
            [("/image/compressed", COMPRESSED_IMAGE), ("/image/compressedDepth", COMPRESSED_IMAGE)],
            "/image/compressed",
        ),
        ([("/cam/depth/image", RAW_IMAGE)], "/cam/depth/image"),
    ],
)
def test_a_camera_is_found(images: list[tuple[str, str]], chosen: str) -> None:
    assert choose(SAID, *images).images == (chosen,)


@pytest.mark.parametrize(
    ("texts", "chosen"),
    [
        ([("/robot_description", STRING), ("/robot/instruction", STRING)], "/robot/instruction"),
        ([("/instruction", STRING), ("/task", STRING)], "/instruction"),
        ([("/language_command", STRING), ("/chatter", STRING)], "/language_command"),
        ([("/vla/userInstruction", STAMPED)], "/vla/userInstruction"),
    ],
)
def test_an_instruction_topic_is_found(texts: list[tuple[str, str]], chosen: str) -> None:
    assert choose(("/image", RAW_IMAGE), *texts).instruction == chosen


@pytest.mark.parametrize(
    "texts",
    [
        [("/robot_description", STRING)],
        [("/a/instruction", STRING), ("/b/instruction", STRING)],
    ],
)
def test_texts_that_leave_a_choice_are_listed(texts: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        choose(("/image", RAW_IMAGE), *texts)

    assert caught.value.field == "--instruction-topic"
    assert all(name in str(caught.value) for name, _ in texts)


def test_cameras_that_leave_a_choice_are_listed() -> None:
    with pytest.raises(InvalidInputError) as caught:
        choose(SAID, ("/left/image", RAW_IMAGE), ("/right/image", RAW_IMAGE))

    assert caught.value.field == "--image-topic"
    assert "/left/image" in str(caught.value)
    assert "/right/image" in str(caught.value)


def test_what_the_user_names_is_taken() -> None:
    chosen = choose(
        SAID, ("/chatter", STRING), ("/left/image", RAW_IMAGE), ("/right/image", RAW_IMAGE),
        ("/reset", "std_msgs/msg/Empty"), images=("/right/image",), instruction="chatter",
        marker="/reset",
    )  # fmt: skip

    assert (chosen.images, chosen.instruction) == (("/right/image",), "/chatter")
    assert chosen.marker == "/reset"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"images": ("/nothing",)}, "--image-topic"),
        ({"images": ("/instruction",)}, "--image-topic"),
        ({"instruction": "/image"}, "--instruction-topic"),
        ({"marker": "/nothing"}, "--episode-topic"),
    ],
)
def test_a_named_topic_that_does_not_fit_is_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        choose(SAID, ("/image", RAW_IMAGE), **options)

    assert caught.value.field == field


def test_a_repeated_camera_is_named_in_the_notes() -> None:
    notes = choose(SAID, ("/image", RAW_IMAGE), ("/image/compressed", COMPRESSED_IMAGE)).notes

    assert any("/image/compressed repeats /image" in note for note in notes)


def test_a_topic_of_markers_is_found_without_its_slash_as_the_others_are() -> None:
    found = choose(
        SAID, ("/front", RAW_IMAGE), ("/begin", STAMPED),
        images=("front",), instruction="instruction", marker="begin",
    )  # fmt: skip
    assert (found.images, found.instruction, found.marker) == (
        ("/front",),
        "/instruction",
        "/begin",
    )
