"""`ros2 bag` plays where it can; where it cannot, the reason is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import ReadOptions
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.ros import player_choice
from vla_retrieval.ros.frame_player import FramePlayer
from vla_retrieval.ros.player_choice import choose_player
from vla_retrieval.ros.playing import Player, ReplayOptions
from vla_retrieval.ros.rosbag2_player import Rosbag2Player

SEC = 1_000_000_000
START_NS = 1_700_000_000 * SEC
TYPES = get_typestore(Stores.ROS2_HUMBLE)
IMAGE, STRING, STAMPED = "sensor_msgs/msg/Image", "std_msgs/msg/String", "robot_msgs/msg/Task"
TYPES.register(get_types_from_msg("std_msgs/Header header\nstring text\n", STAMPED))
Image, String, Time, Header = (
    TYPES.types[name] for name in (IMAGE, STRING, "builtin_interfaces/msg/Time",
                                   "std_msgs/msg/Header")
)  # fmt: skip
Write = Callable[..., Path]


def image(stamp_ns: int, frame_id: str) -> Any:
    header = Header(Time(*divmod(stamp_ns, SEC)), frame_id)
    return Image(header, 2, 2, "mono8", 0, 2, np.zeros(4, np.uint8))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_bag(
        *cameras: tuple[str, str], stamped: bool = True, instruction: str = STRING
    ) -> Path:
        """Write a bag of one instruction, and two images of each camera: topic, frame id."""
        bag = tmp_path / "bag"
        with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            said = writer.add_connection("/instruction", instruction, typestore=TYPES)
            message = (
                String("go") if instruction == STRING
                else TYPES.types[STAMPED](Header(Time(START_NS // SEC, 0), ""), "go")
            )  # fmt: skip
            writer.write(said, START_NS, TYPES.serialize_cdr(message, instruction))
            for topic, frame_id in cameras or (("/camera/image", "eye"),):
                seen = writer.add_connection(topic, IMAGE, typestore=TYPES)
                for number in (1, 2):
                    stamp_ns = START_NS + number * SEC
                    recorded = image(stamp_ns if stamped else 0, frame_id)
                    writer.write(seen, stamp_ns + 1000, TYPES.serialize_cdr(recorded, IMAGE))
        return bag

    return write_bag


@pytest.fixture
def ros2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a `ros2` that finds nothing wrong with any bag."""
    program = tmp_path / "bin" / "ros2"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    services = ModuleType("rosbag2_interfaces.srv")
    services.Resume = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rosbag2_interfaces", ModuleType("rosbag2_interfaces"))
    monkeypatch.setitem(sys.modules, services.__name__, services)
    return program


@pytest.fixture
def publishers(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how many publishers topics of the graph have; the node reads /robot/clock."""
    monkeypatch.setattr(player_choice, "_clock_topic", lambda client: "/robot/clock")
    return {}


Choose = Callable[..., tuple[Player, str]]


@pytest.fixture
def choose(publishers: dict[str, int]) -> Choose:
    node = SimpleNamespace(count_publishers=lambda topic: publishers.get(topic, 0))

    def chosen(
        bag: Path, player: str = "auto", images: Sequence[str] = (), stamps: str = "header",
        rate: float = 1.0,
    ) -> tuple[Player, str]:  # fmt: skip
        reading = ReadOptions(stamps=stamps)
        reading = replace(reading, topics=replace(reading.topics, images=tuple(images)))
        recordings = read_recordings([bag], reading)
        client: Any = SimpleNamespace(node=node)
        return choose_player(
            client, [bag], recordings, list(recordings[0].frames), reading,
            ReplayOptions(rate=rate, player=player),
        )  # fmt: skip

    return chosen


@pytest.mark.parametrize("asked", ["auto", "ros2bag"])
def test_ros2_bag_plays_where_nothing_is_against_it(
    write: Write, ros2: Path, choose: Choose, asked: str
) -> None:
    player, why = choose(write(), asked)
    assert isinstance(player, Rosbag2Player)
    assert why == ""


def test_the_own_player_plays_where_it_is_asked_for(
    write: Write, ros2: Path, choose: Choose
) -> None:
    player, why = choose(write(), "own")
    assert isinstance(player, FramePlayer)
    assert why == ""


def refused(choose: Choose, bag: Path, **more: Any) -> str:
    """Return why ros2 bag is not chosen, and check that it is an error where it was asked for."""
    player, why = choose(bag, **more)
    assert isinstance(player, FramePlayer)
    with pytest.raises(InvalidInputError, match="take --player own") as error:
        choose(bag, "ros2bag", **more)
    assert error.value.field == "player"
    assert why in str(error.value)
    return why


def test_without_the_command(
    write: Write, ros2: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no command ros2" in refused(choose, write())


def test_without_its_messages(
    write: Write, ros2: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rosbag2_interfaces.srv", None)
    assert "no messages of ros2 bag" in refused(choose, write())


def test_a_rate_that_waits_for_answers(write: Write, ros2: Path, choose: Choose) -> None:
    assert "rate 0" in refused(choose, write(), rate=0.0)


def test_a_bag_that_ros2_bag_cannot_read(write: Write, ros2: Path, choose: Choose) -> None:
    ros2.write_text("#!/bin/sh\necho no storage for $3 >&2\nexit 1\n")
    bag = write()
    assert f"no storage for {bag}" in refused(choose, bag)


def test_instructions_of_a_type_that_the_node_does_not_read(
    write: Write, ros2: Path, choose: Choose
) -> None:
    assert f"instructions of type {STAMPED}" in refused(choose, write(instruction=STAMPED))


def test_images_without_a_stamp(write: Write, ros2: Path, choose: Choose) -> None:
    assert "without a stamp" in refused(choose, write(stamped=False))


def test_stamps_of_the_receipt(write: Write, ros2: Path, choose: Choose) -> None:
    assert "--stamps received" in refused(choose, write(), stamps="received")


def test_cameras_whose_images_cannot_be_told_apart(
    write: Write, ros2: Path, choose: Choose
) -> None:
    bag = write(("/left", "eye"), ("/right", "eye"))
    assert "2 images of bag have the stamp" in refused(choose, bag, images=["/left", "/right"])


def test_cameras_of_one_stamp_and_two_frame_ids_are_told_apart(
    write: Write, ros2: Path, choose: Choose
) -> None:
    bag = write(("/left", "eye"), ("/right", "other eye"))
    player, _ = choose(bag, images=["/left", "/right"])
    assert isinstance(player, Rosbag2Player)


def test_a_clock_that_somebody_else_publishes(
    write: Write, ros2: Path, choose: Choose, publishers: dict[str, int]
) -> None:
    publishers["/robot/clock"] = 1
    assert "somebody publishes /robot/clock already" in refused(choose, write())
