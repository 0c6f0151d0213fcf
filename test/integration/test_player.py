"""The bag player: every message, in order, as its bytes lie in the bag."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from test.evaluation.writers import Recorded, write_mcap
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros import player as module
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.images import to_rgb
from vla_retrieval.ros.player import BagPlayer, Progress

from .harness import Robot, picture, wait_until

COUNT = 5
STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types


def ignore(progress: Progress) -> None:
    pass


def write_bag(path: Path, storage: StoragePlugin) -> Path:
    """Write five pictures and five texts, as another tool does."""
    header = TYPES["std_msgs/msg/Header"]
    stamp = TYPES["builtin_interfaces/msg/Time"]
    with Writer(path, version=9, storage_plugin=storage) as writer:
        images = writer.add_connection("/cam", "sensor_msgs/msg/Image", typestore=STORE)
        texts = writer.add_connection("/say", "std_msgs/msg/String", typestore=STORE)
        for number in range(COUNT):
            pixels = picture(number)
            image = TYPES["sensor_msgs/msg/Image"](
                header=header(stamp=stamp(sec=number, nanosec=7), frame_id="cam"),
                height=48, width=64, encoding="rgb8", is_bigendian=0, step=192,
                data=pixels.ravel(),
            )  # fmt: skip
            text = TYPES["std_msgs/msg/String"](data=f"第 {number} 句")
            at = number * 10_000_000
            writer.write(images, at, STORE.serialize_cdr(image, "sensor_msgs/msg/Image"))
            writer.write(texts, at + 1, STORE.serialize_cdr(text, "std_msgs/msg/String"))
    return path


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_what_is_played_is_what_was_recorded(
    robot: Robot, tmp_path: Path, storage: StoragePlugin
) -> None:
    bag = write_bag(tmp_path / "bag", storage)
    player = subprocess.Popen(
        [sys.executable, "-m", "vla_retrieval.cli.play_bag", str(bag),
         "--topic", "/cam:/camera/image", "--topic", "/say"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    images = robot.collect(Image, "/camera/image")
    texts = robot.collect(String, "/say")
    assert player.wait(60) == 0, player.communicate()[0]
    wait_until(lambda: len(images.messages) == len(texts.messages) == COUNT, "all messages")
    assert [message.data for message in texts.messages] == [f"第 {n} 句" for n in range(COUNT)]
    for number, message in enumerate(images.messages):
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (number, 7)
        np.testing.assert_array_equal(to_rgb(message), picture(number))


def test_a_topic_that_is_not_in_the_bag_is_named_with_those_that_are(
    robot: Robot, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP)
    with pytest.raises(InvalidInputError, match=r"topics: expected .*/cam, /say.* got /nose"):
        BagPlayer(robot.client.node, bag, {"/nose": "/x"})


def test_topics_that_nobody_hears_yet_are_named_while_it_waits(
    robot: Robot, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP)
    player = BagPlayer(robot.client.node, bag, {"/cam": "/eye", "/say": "/task"})
    told: list[list[str]] = []
    stop = threading.Event()
    waiting = threading.Thread(target=player.wait_for_subscribers, args=(stop, told.append))
    waiting.start()
    try:
        wait_until(lambda: told == [["/eye", "/task"]], "both topics")
        robot.collect(String, "/task")
        wait_until(lambda: told[1:] == [["/eye"]], "the other topic")
        robot.collect(Image, "/eye")
        wait_until(lambda: not waiting.is_alive(), "the end of the waiting")
    finally:
        stop.set()
        waiting.join()


def test_who_waits_long_is_told_which_topic_of_that_type_is_listened_to(
    robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node under its default names, and a bag with a camera's."""
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP)
    node = robot.client.node
    player = BagPlayer(node, bag, {"/cam": "/cam", "/say": "/say"})
    for kind, topic in ((Image, "/image"), (String, "/say")):
        node.create_subscription(kind, topic, lambda _: None, 1)
    monkeypatch.setattr(module, "_ADVISED_AFTER_SEC", 1.0)  # discovery takes a while
    told: list[str] = []
    stop = threading.Event()

    def note(advice: str) -> None:
        told.append(advice)
        stop.set()

    player.wait_for_subscribers(stop, advise=note)
    assert told == [
        "Nobody listens to /cam (sensor_msgs/msg/Image). Somebody listens to /image of that type. "
        "--topic /cam:/image --topic /say plays there. --no-wait plays at once."
    ]


def test_who_waits_is_told_that_another_type_is_listened_for_and_again_when_that_changes(
    robot: Robot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.MCAP)
    player = BagPlayer(robot.client.node, bag, {"/cam": "/other"})
    monkeypatch.setattr(module, "_ADVISED_AFTER_SEC", 0.0)
    monkeypatch.setattr(module, "_ADVISED_AGAIN_SEC", 0.05)
    told: list[str] = []
    stop = threading.Event()
    waiting = threading.Thread(
        target=player.wait_for_subscribers, args=(stop, lambda _: None, told.append)
    )
    waiting.start()
    try:
        wait_until(lambda: bool(told), "advice")
        assert told == [
            "Nobody listens to /other (sensor_msgs/msg/Image). --no-wait plays at once."
        ]
        with RetrievalClient(name="other") as other:  # one participant has one type on a topic
            other.node.create_subscription(CompressedImage, "/other", lambda _: None, 1)
            wait_until(lambda: len(told) > 1, "other advice")
        assert "listens to /other for sensor_msgs/msg/CompressedImage" in told[1]
        assert "the bag has sensor_msgs/msg/Image there" in told[1]
    finally:
        stop.set()
        waiting.join()


@pytest.mark.parametrize("hurt", ["cut off", "damaged"])
def test_of_a_damaged_bag_all_is_played_that_can_be_read(
    robot: Robot, tmp_path: Path, hurt: str
) -> None:
    """As it can be evaluated: a recorder that was killed leaves no index and no metadata."""
    recorded = Recorded()
    for number in range(COUNT):
        recorded.say(0.01 * number, f"go {number}", "/say")
    whole = write_mcap(tmp_path / "whole.mcap", recorded, CompressionType.NONE, chunk_size=1)
    data = bytearray(whole.read_bytes())
    third = data.index(b"go 2\0")
    if hurt == "cut off":
        del data[third:]
    else:
        data[third] ^= 1
    bag = tmp_path / "bag.mcap"
    bag.write_bytes(data)
    player = BagPlayer(robot.client.node, bag, {"/say": "/task"})
    sent: list[bytes] = []
    expected = [0, 1] if hurt == "cut off" else [0, 1, 3, 4]
    played = player.play(1e3, threading.Event(), ignore, lambda _, data: sent.append(data))
    assert played == len(expected)
    assert [data[8:12].decode() for data in sent] == [f"go {number}" for number in expected]
    assert len(player.damage) == 1


def test_a_bag_without_messages_on_the_topics_is_refused(robot: Robot, tmp_path: Path) -> None:
    """Looped, it would be read again and again without a pause."""
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        writer.add_connection("/say", "std_msgs/msg/String", typestore=STORE)
    with pytest.raises(InvalidInputError, match=r"a bag with messages, got .* none on /say"):
        BagPlayer(robot.client.node, tmp_path / "bag", {})


def test_a_folder_without_a_bag_is_refused(robot: Robot, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="bag: expected a rosbag2 directory"):
        BagPlayer(robot.client.node, tmp_path, {})
