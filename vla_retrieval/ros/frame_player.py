"""Shows recorded frames to a node from the evaluation's own process, stamped as they are sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.playing import (
    Listener,
    Progress,
    ReplayOptions,
    Showing,
    check_listening,
    wait_until,
)
from vla_retrieval.ros.recorded_images import to_image

_WITHIN_SEC = 60.0
_TRY_SEC = 0.5
_LEAD_SEC = 0.1
_NS_PER_SEC = 1_000_000_000


class FramePlayer:
    """Plays the frames that ask, and nothing else of their bags.

    Args:
        client: Of the node.
        options: How frames are played.
    """

    name = "the package's own player"

    def __init__(self, client: RetrievalClient, options: ReplayOptions) -> None:
        """Send nothing yet."""
        self._client = client
        self._options = options
        # Stamp to what was shown. The thread that plays adds, the one that hears looks up; each is
        # one operation of a dict, which the interpreter does not interrupt.
        self._shown: dict[int, Showing] = {}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The node needs none."""
        return {}

    @property
    def images_sent(self) -> int:
        """Images that went out, those that were sent again counted again."""
        return len(self._shown)

    def find(self, stamp_ns: int, frame_id: str) -> Showing | None:
        """Return the frame with a stamp, or None; a stamp is given once."""
        return self._shown.get(stamp_ns)

    def describe(self) -> str:
        """Return sentences about how it plays, for the report."""
        options = self._options
        speed = (
            f"at {options.rate:g} times the bag's speed, with pauses of {options.most_gap_sec:g} s "
            "at most" if options.rate else "each when the one before it was answered"
        )  # fmt: skip
        return f"Frames were played by {self.name} {speed}, and stamped when they were sent."

    def play(self, frames: Sequence[Frame], listener: Listener, progress: Progress) -> None:
        """Show frames, each as long after the one before as it was recorded.

        Args:
            frames: In the order of their bags, all raw or all compressed.
            listener: Hears the answers.
            progress: Told how far it is.

        Raises:
            RetrievalError: If the node ends meanwhile.
            TimeoutError: If the node does not listen.
        """
        node = self._client.node
        kind = type(to_image(frames[0].message(), 1))
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        camera = node.create_publisher(
            kind, "image" if kind is Image else "image/compressed", reliable
        )
        instructions = node.create_publisher(String, "instruction", 10)
        wait_until(
            lambda: camera.get_subscription_count() and instructions.get_subscription_count(),
            _WITHIN_SEC, "the node does not listen to image and instruction",
        )  # fmt: skip

        def show(message: Any) -> None:
            check_listening(camera.get_subscription_count(), camera.topic_name)
            camera.publish(message)

        self._play(frames, show, instructions.publish, listener, progress)
        listener.wait_for(frames[-1], self._options.answer_sec, also_outdated=True)

        def leave() -> None:
            for publisher in (camera, instructions):
                node.destroy_publisher(publisher)

        self._client.between_callbacks(leave)

    def _play(
        self,
        frames: Sequence[Frame],
        show: Callable[[Any], None],
        say: Callable[[Any], None],
        listener: Listener,
        progress: Progress,
    ) -> None:
        said = None
        last: Frame | None = None
        due = time.monotonic()
        for number, frame in enumerate(frames):
            gap_sec = self._gap_sec(last, frame) if last else _LEAD_SEC
            due += gap_sec
            message = to_image(frame.message(), 1)
            if (frame.instruction, frame.episode_id) != said:
                # Between two frames: topics have no order among each other, and the frame before
                # may not be answered yet.
                _sleep_until(due - min(_LEAD_SEC, gap_sec / 2))
                say(String(data=frame.instruction))
                said = frame.instruction, frame.episode_id
            _sleep_until(due)
            self._send(show, message, frame)
            progress("playing", number + 1, len(frames))
            if not self._options.rate:
                self._insist(show, message, frame, listener)
            last = frame

    def _gap_sec(self, last: Frame, frame: Frame) -> float:
        if not self._options.rate:
            return 0.0
        gap = (frame.stamp_ns - last.stamp_ns) / _NS_PER_SEC if frame.bag == last.bag else math.inf
        return min(max(gap, 0.0), self._options.most_gap_sec) / self._options.rate

    def _send(self, show: Callable[[Any], None], message: Any, frame: Frame) -> None:
        stamp_ns = time.time_ns()
        while stamp_ns in self._shown:  # a clock of microseconds
            stamp_ns += 1
        self._shown[stamp_ns] = Showing(frame, time.monotonic())
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, _NS_PER_SEC)
        show(message)

    def _insist(
        self, show: Callable[[Any], None], message: Any, frame: Frame, listener: Listener
    ) -> None:
        """Return once a frame is answered with its instruction, sending it again meanwhile."""
        end = time.monotonic() + self._options.answer_sec
        while not listener.wait_for(frame, _TRY_SEC) and time.monotonic() < end:
            self._send(show, message, frame)


def _sleep_until(at_sec: float) -> None:
    time.sleep(max(0.0, at_sec - time.monotonic()))
