"""Bags for tests: one recording, written by several tools in several ways."""

from __future__ import annotations

import io
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from PIL import Image as Pillow
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

START_NS = 1_700_000_000_000_000_000
SEC = 1_000_000_000
IMAGE, COMPRESSED, STRING = (
    "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String",
)  # fmt: skip
STAMPED = "my_robot_msgs/msg/Instruction"
TYPES = get_typestore(Stores.ROS2_HUMBLE)
TYPES.register(get_types_from_msg("std_msgs/Header header\nstring text\n", STAMPED))


@dataclass
class Recorded:
    """Messages to record: topic, type, time of receipt, CDR."""

    messages: list[tuple[str, str, int, bytes]] = field(default_factory=list)

    def add(self, topic: str, msgtype: str, at: float, message: Any) -> Recorded:
        """Record a message at a time in seconds after the start."""
        data = message if isinstance(message, bytes) else cdr(message, msgtype)
        self.messages.append((topic, msgtype, ns(at), data))
        return self

    def say(self, at: float, text: str, topic: str = "/instruction") -> Recorded:
        """Record an instruction."""
        return self.add(topic, STRING, at, TYPES.types[STRING](data=text))

    def see(self, at: float, topic: str = "/camera/image_raw", **changes: Any) -> Recorded:
        """Record a raw image whose header says when."""
        return self.add(topic, IMAGE, at, raw_image(at, **changes))

    def in_order(self) -> list[tuple[str, str, int, bytes]]:
        """The messages by time of receipt."""
        return sorted(self.messages, key=lambda message: message[2])

    def types(self) -> dict[str, str]:
        """Topic to type."""
        return {topic: msgtype for topic, msgtype, _, _ in self.messages}


def ns(at: float) -> int:
    return START_NS + round(at * 1000) * (SEC // 1000)


def cdr(message: Any, msgtype: str) -> bytes:
    return bytes(TYPES.serialize_cdr(message, msgtype))


def header(stamp_ns: int) -> Any:
    stamp = TYPES.types["builtin_interfaces/msg/Time"](sec=stamp_ns // SEC, nanosec=stamp_ns % SEC)
    return TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")


def picture(at: float, height: int = 6, width: int = 10) -> np.ndarray:
    """Another picture for each millisecond."""
    return np.random.default_rng(1000 + round(at * 1000)).integers(
        0, 256, (height, width, 3), np.uint8
    )


def raw_image(at: float, padding: int = 0, stamp_ns: int | None = None, **changes: Any) -> Any:
    pixels = picture(at)
    rows = pixels.reshape(len(pixels), -1)
    data = np.hstack([rows, np.full((len(rows), padding), 0xAB, np.uint8)])
    fields = {
        "header": header(ns(at) if stamp_ns is None else stamp_ns),
        "height": pixels.shape[0], "width": pixels.shape[1], "encoding": "rgb8",
        "is_bigendian": 0, "step": data.shape[1], "data": data.reshape(-1),
    }  # fmt: skip
    return TYPES.types[IMAGE](**{**fields, **changes})


def png_image(at: float) -> Any:
    buffer = io.BytesIO()
    Pillow.fromarray(picture(at)).save(buffer, "PNG")
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    return TYPES.types[COMPRESSED](header=header(ns(at)), format="png", data=data)


def stamped_instruction(at: float, text: str) -> Any:
    return TYPES.types[STAMPED](header=header(ns(at)), text=text)


def two_tasks(count: int = 4) -> Recorded:
    """Twice two tasks of some frames each, one said in Chinese, and a frame before the first."""
    recorded = Recorded().see(-0.5)
    at = 0.0
    for text in ("pick up the cup", "拿起桌子上的杯子", "Pick up the cup.", "拿起桌子上的杯子。"):
        recorded.say(at, text)
        for number in range(count):
            recorded.see(at + 0.1 * (number + 1))
        at += 10.0
    return recorded


def write_rosbags(
    folder: Path, recorded: Recorded, storage: str = "sqlite3", compression: str = "none"
) -> Path:
    """Write a rosbag2 directory with the rosbags library."""
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    writer = Writer(folder, version=9, storage_plugin=plugin)
    if compression != "none":
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, msgtype, typestore=TYPES)
            for topic, msgtype in recorded.types().items()
        }
        for topic, _, stamp_ns, data in recorded.in_order():
            writer.write(connections[topic], stamp_ns, data)
    return folder


def write_mcap(
    path: Path,
    recorded: Recorded,
    compression: CompressionType = CompressionType.ZSTD,
    chunk_size: int = 1024,
    profile: str = "ros2",
    chunked: bool = True,
    definitions: bool = True,
    arrange: bool = True,
) -> Path:
    """Write an mcap file with mcap's own writer."""
    with path.open("wb") as file:
        writer = McapWriter(
            file, chunk_size=chunk_size, compression=compression, use_chunking=chunked
        )
        writer.start(profile=profile, library="test")
        channels = {}
        for topic, msgtype in recorded.types().items():
            definition = TYPES.generate_msgdef(msgtype, ros_version=2)[0] if definitions else ""
            schema = writer.register_schema(
                msgtype, "ros2msg" if definitions else "", definition.encode()
            )
            channels[topic] = writer.register_channel(topic, "cdr", schema)
        for topic, _, at, data in recorded.in_order() if arrange else recorded.messages:
            writer.add_message(channels[topic], at, data, at)
        writer.finish()
    return path


REFERENCE_LAYOUT = """
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL,
  metadata TEXT NOT NULL);
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
  serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
  data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
INSERT INTO schema(schema_version, ros_distro) VALUES (3, 'humble');
"""
"""As rosbag2_storage_default_plugins of Humble makes it: without message definitions."""


def write_sqlite(path: Path, recorded: Recorded) -> Path:
    """Write Humble's sqlite3 storage with SQL alone."""
    with sqlite3.connect(path) as database:
        database.executescript(REFERENCE_LAYOUT)
        ids = {topic: number for number, topic in enumerate(recorded.types(), start=1)}
        for topic, msgtype in recorded.types().items():
            row = (ids[topic], topic, msgtype, "cdr", "")
            database.execute("INSERT INTO topics VALUES (?, ?, ?, ?, ?)", row)
        for topic, _, stamp_ns, data in recorded.in_order():
            database.execute(
                "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)",
                (ids[topic], stamp_ns, data),
            )
    database.close()
    return path
