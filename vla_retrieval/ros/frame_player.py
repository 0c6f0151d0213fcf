"""Plays chosen frames of a bag into the running node, as a camera and a person would.

Frames go out in the bag's own time with the stamp of now, each episode after its instruction, and
episodes that are left out leave no long silence. What the node publishes is put beside them.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String

from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.topics import COMPRESSED_IMAGE
from vla_retrieval.experiments.live import LiveAnswer
from vla_retrieval.ros.conversions import to_ns
from vla_retrieval.ros.player import message_class, player_qos
from vla_retrieval_msgs.msg import MatchArray

_NS_PER_SEC = 1_000_000_000
_LOOK_AGAIN_SEC = 0.02
_LONGEST_PAUSE_NS = _NS_PER_SEC
_ACKNOWLEDGE_WITHIN = Duration(seconds=5.0)
_STAGES = (
    "queue", "decode", "encode_image", "encode_instruction", "filter", "search", "fetch", "total",
)  # fmt: skip


@dataclass(frozen=True)
class GraphTopics:
    """Where the node listens.

    Attributes:
        image: Base topic; compressed images go to its ``/compressed``.
        instruction: Of the instructions.
    """

    image: str = "image"
    instruction: str = "instruction"


class MatchRecorder:
    """Keeps the newest answer to each stamp that it was told of."""

    def __init__(self, node: Node) -> None:
        """Subscribe to what the node publishes; somebody else spins."""
        self._stamped: dict[int, tuple[Frame, float]] = {}
        # Protects the answers: the thread that spins puts, the player waits.
        self._changed = threading.Condition()
        self.answers: dict[str, LiveAnswer] = {}
        self.inexact = 0
        self._subscription = node.create_subscription(
            MatchArray, "retrieval/matches", self._take, 100
        )

    def is_connected(self) -> bool:
        """Whether somebody publishes matches."""
        return self._subscription.get_publisher_count() > 0

    def expect(self, frame: Frame, stamp_ns: int) -> None:
        """Note that a frame goes out now, under a stamp that no other has."""
        self._stamped[stamp_ns] = frame, time.perf_counter()

    def wait_for(self, frame: Frame, timeout_sec: float) -> None:
        """Return when a frame is answered, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: frame.query_id in self.answers, timeout_sec)

    def _take(self, message: MatchArray) -> None:
        arrived_sec = time.perf_counter()
        frame, stamped_sec = self._stamped.get(to_ns(message.header.stamp), (None, 0.0))
        if frame is None:
            return
        answer = LiveAnswer(
            tuple((match.entry_id, match.score) for match in message.matches),
            message.query.instruction, arrived_sec, stamped_sec,
            {stage: getattr(message.times, f"{stage}_sec") for stage in _STAGES},
        )  # fmt: skip
        with self._changed:
            # A frame is asked about again when an instruction comes after it: the first counts.
            if frame.query_id not in self.answers:
                self.answers[frame.query_id] = answer
                self.inexact += not message.exact
            self._changed.notify_all()


class FramePlayer:
    """Publishes frames of one kind, raw or compressed, and their instructions."""

    def __init__(self, node: Node, msgtype: str, topics: GraphTopics) -> None:
        """Create the publishers.

        Args:
            node: Publishes.
            msgtype: Of all the frames.
            topics: Where the node listens.

        Raises:
            InvalidInputError: If something else publishes there: the node would see both.
        """
        image = topics.image + ("/compressed" if msgtype == COMPRESSED_IMAGE else "")
        for topic in (image, topics.instruction):
            if node.count_publishers(topic):
                raise InvalidInputError(
                    "topics", f"nobody else publishing {topic}", "another publisher",
                    "Stop the camera, or start the node in a namespace of its own.",
                )  # fmt: skip
        self._images = node.create_publisher(message_class(msgtype), image, player_qos())
        self._instructions = node.create_publisher(String, topics.instruction, player_qos())

    def wait_for_subscribers(self, stop: threading.Event, timeout_sec: float) -> None:
        """Return once the node hears both topics, or at ``stop``.

        Raises:
            RetrievalError: If it does not in time.
        """
        end = time.monotonic() + timeout_sec
        publishers = self._images, self._instructions
        while not stop.is_set():
            silent = [p.topic_name for p in publishers if not p.get_subscription_count()]
            if not silent:
                return
            if time.monotonic() > end:
                raise RetrievalError(
                    f"nobody subscribed to {' and '.join(silent)} within {timeout_sec:g} s: is the"
                    " node's image_transport the bag's, and are its topics these?"
                )
            stop.wait(_LOOK_AGAIN_SEC)

    def play(
        self,
        frames: Sequence[Frame],
        rate: float,
        recorder: MatchRecorder,
        stop: threading.Event,
        progress: Callable[[int, int], None],
    ) -> list[Frame]:
        """Play frames; return those that went out.

        Args:
            frames: In the order of the bag.
            rate: Speed against the bag's own time, above 0.
            recorder: Told of each frame.
            stop: Ends the playing early.
            progress: Told how many of how many went out.
        """
        sent: list[Frame] = []
        due = time.monotonic()
        stamp_ns = 0
        for frame in frames:
            before = sent[-1] if sent else None
            due += _pause_ns(before, frame) / _NS_PER_SEC / rate
            if before is None or frame.episode_id != before.episode_id:
                self._say(frame.instruction)
            data = frame.recorded()[1]
            if stop.wait(max(0.0, due - time.monotonic())):
                break
            stamp_ns = max(time.time_ns(), stamp_ns + 1)
            recorder.expect(frame, stamp_ns)
            self._images.publish(restamped(data, stamp_ns))
            sent.append(frame)
            progress(len(sent), len(frames))
        self._images.wait_for_all_acked(_ACKNOWLEDGE_WITHIN)
        return sent

    def end_episode(self) -> None:
        """Take back the instruction that was given last."""
        self._say("")

    def _say(self, instruction: str) -> None:
        """Give an instruction; it has reached the node before the next image goes out."""
        self._instructions.publish(String(data=instruction))
        self._instructions.wait_for_all_acked(_ACKNOWLEDGE_WITHIN)


def restamped(data: bytes, stamp_ns: int) -> bytes:
    """Return a message that begins with a header, under another stamp.

    The four bytes of CDR's encapsulation come first, and the second of them names the byte order;
    then the stamp: int32 seconds, uint32 nanoseconds. Nothing else is decoded and encoded again.
    """
    order = "<" if data[1] & 1 else ">"
    return data[:4] + struct.pack(f"{order}iI", *divmod(stamp_ns, _NS_PER_SEC)) + data[12:]


def _pause_ns(before: Frame | None, frame: Frame) -> int:
    """Return the bag's own pause, or where it is another episode's, a second at most."""
    if before is None:
        return 0
    pause = max(0, frame.received_ns - before.received_ns)
    same = before.bag == frame.bag and before.episode_id == frame.episode_id
    return (
        pause
        if same
        else min(pause, _LONGEST_PAUSE_NS)
        if before.bag == frame.bag
        else (_LONGEST_PAUSE_NS)
    )
