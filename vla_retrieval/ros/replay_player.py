"""Plays frames into the graph as a camera would: in the bags' time, stamped as they go out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.topics import COMPRESSED_IMAGE
from vla_retrieval.experiments.frame_store import Progress
from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval.ros.images import to_image_message
from vla_retrieval.ros.replay_answers import Recorder

_NS_PER_SEC = 1_000_000_000
_LOOK_AGAIN_SEC = 0.02
# Reliable, so that what is played arrives; a subscriber that asks for best effort gets that.
_QOS = QoSProfile(
    depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
)


class FramePlayer:
    """Publishes frames and their instructions on the topics that a retrieval node listens to."""

    def __init__(self, node: Node, *, compressed: bool) -> None:
        """Create the publishers.

        Args:
            node: Publishes.
            compressed: Whether the node listens to compressed images.
        """
        self._compressed = compressed
        self._images = node.create_publisher(
            CompressedImage if compressed else Image,
            "image/compressed" if compressed else "image", _QOS,
        )  # fmt: skip
        self._instructions = node.create_publisher(String, "instruction", _QOS)
        self._said = ("", "")
        self._stamp_ns = 0

    def wait_for_node(self, recorder: Recorder, within_sec: float) -> None:
        """Return once the node listens and is listened to.

        Raises:
            TimeoutError: If it does not in time.
        """
        end = time.monotonic() + within_sec
        publishers = (self._images, self._instructions)
        while not (all(p.get_subscription_count() for p in publishers) and recorder.has_publisher()):
            if time.monotonic() > end:
                names = " and ".join(p.topic_name for p in publishers)
                raise TimeoutError(
                    f"nobody listens to {names} within {within_sec:g} s: is the node active, and "
                    "are its topics remapped? Give the same remappings after --ros-args."
                )
            time.sleep(_LOOK_AGAIN_SEC)

    def play(
        self,
        frames: Sequence[Frame],
        recorder: Recorder,
        rate: float,
        longest_gap_sec: float,
        progress: Progress,
        stop: threading.Event,
    ) -> dict[str, int]:
        """Play frames once.

        An instruction goes out half-way between two frames, before the first frame of its episode.

        Args:
            frames: In order.
            recorder: Told of each before it goes out.
            rate: Speed against the bags' own time, above 0.
            longest_gap_sec: Longest wait between two frames at speed 1; also from bag to bag.
            progress: Told how far it is.
            stop: Ends the playing early.

        Returns:
            Why frames could not be sent -> how many.

        Raises:
            InvalidInputError: If the node takes compressed images and the bags have raw ones.
        """
        self._check_transport(frames)
        refused: dict[str, int] = {}
        due = time.monotonic()
        before: Frame | None = None
        for done, frame in enumerate(frames):
            progress("playing", done, len(frames))
            gap = _gap_sec(before, frame, longest_gap_sec) / rate
            before, due = frame, max(due, time.monotonic() - gap) + gap
            try:
                message = self._message(frame)
            except InvalidInputError as error:
                refused[error.field] = refused.get(error.field, 0) + 1
                continue
            if _wait_until(due - gap / 2, stop):
                break
            self._say(frame)
            if _wait_until(due, stop):
                break
            self._stamp_ns = max(time.time_ns(), self._stamp_ns + 1)
            message.header.stamp = to_stamp(self._stamp_ns)
            recorder.expect(frame, self._stamp_ns)
            self._images.publish(message)
        progress("playing", len(frames), len(frames))
        return refused

    def _check_transport(self, frames: Sequence[Frame]) -> None:
        if not self._compressed:
            return
        for frame in {(frame.bag, frame.topic): frame for frame in frames}.values():
            if frame.recorded is None or frame.recorded().msgtype != COMPRESSED_IMAGE:
                raise InvalidInputError(
                    "image_transport", f"raw, since {frame.topic} of {frame.bag} is",
                    "compressed in the node", "Start the node with image_transport:=raw.",
                )  # fmt: skip

    def _say(self, frame: Frame) -> None:
        # A bag may say the same twice, and each time an episode begins.
        saying = (frame.episode_id, frame.instruction)
        if saying != self._said:
            self._instructions.publish(String(data=frame.instruction))
            self._said = saying

    def _message(self, frame: Frame) -> Any:
        recorded = frame.recorded() if frame.recorded is not None else None
        if recorded is not None and (recorded.msgtype == COMPRESSED_IMAGE) == self._compressed:
            kind = CompressedImage if self._compressed else Image
            return deserialize_message(bytes(recorded.data), kind)
        return to_image_message(frame.image(), Image(header=Header(frame_id=frame.frame_id)))


def _gap_sec(before: Frame | None, frame: Frame, longest_sec: float) -> float:
    if before is None or before.bag != frame.bag:
        return longest_sec
    return min(max(0.0, (frame.stamp_ns - before.stamp_ns) / _NS_PER_SEC), longest_sec)


def _wait_until(due: float, stop: threading.Event) -> bool:
    """Wait; return whether it was cut short."""
    return stop.wait(max(0.0, due - time.monotonic()))
