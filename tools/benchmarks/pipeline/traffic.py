"""A camera that publishes, and a watcher that notes when matches and answers come."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tools.benchmarks.pipeline.bench import SIZES
from vla_retrieval.encoders.verification import draw_scene
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns, to_stamp
from vla_retrieval.ros.images import to_image_message
from vla_retrieval_msgs.msg import MatchArray

ANSWER_SEC: Final = 60.0
"""Longest wait for an answer."""


class Watcher:
    """Notes when matches and answers come.

    Attributes:
        latency_ms: From a frame's stamp to its matches.
        age_ms: Of the frame when the node began to work on it.
        encode_ms: What the node took to embed the frame and the instruction.
        failures: Messages of calls that failed.
    """

    def __init__(self, client: RetrievalClient) -> None:
        self.latency_ms: list[float] = []
        self.age_ms: list[float] = []
        self.encode_ms: list[float] = []
        self.failures: list[str] = []
        # Protects latency_ms and wakes whoever waits for the next match.
        self._heard = threading.Condition()
        self.subscription = client.node.create_subscription(
            MatchArray, "retrieval/matches", self._on_matches, 100
        )

    def _on_matches(self, message: MatchArray) -> None:
        latency = (time.time_ns() - to_ns(message.header.stamp)) / 1e6
        times = message.times
        self.age_ms.append((message.image_age_sec - times.total_sec) * 1e3)
        self.encode_ms.append((times.encode_image_sec + times.encode_instruction_sec) * 1e3)
        with self._heard:
            self.latency_ms.append(latency)
            self._heard.notify_all()

    def forget(self) -> None:
        """Begin anew, once nothing is under way."""
        for values in (self.latency_ms, self.age_ms, self.encode_ms):
            values.clear()

    def wait_for(self, count: int, within_sec: float) -> bool:
        """Return whether so many matches came in time."""
        with self._heard:
            return self._heard.wait_for(lambda: len(self.latency_ms) >= count, within_sec)

    def call(self, client: RetrievalClient, kind: str, into: list[float], **fields: Any) -> None:
        """Call a service; note how long the answer takes, or why there is none."""
        begun = time.perf_counter()

        def done(future: Future[Any]) -> None:
            into.append((time.perf_counter() - begun) * 1e3)
            if not future.result().success:
                self.failures.append(future.result().message)

        client.call_async(kind, ANSWER_SEC, **fields).add_done_callback(done)


class Camera:
    """Publishes pictures of VGA size, each under the time at which it is sent."""

    def __init__(self, client: RetrievalClient) -> None:
        quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publisher = client.node.create_publisher(Image, "image", quality)
        self._frames = [
            to_image_message(draw_scene(SIZES["VGA"], seed), Image()) for seed in range(8)
        ]
        self.published = 0

    def publish(self) -> None:
        """Send the next frame."""
        message = self._frames[self.published % len(self._frames)]
        message.header = Header(stamp=to_stamp(time.time_ns()), frame_id="camera")
        self._publisher.publish(message)
        self.published += 1

    def wait_for_node(self, watcher: Watcher) -> None:
        """Return once the node hears the camera and the watcher hears the node."""
        end = time.monotonic() + ANSWER_SEC
        while not (
            self._publisher.get_subscription_count() and watcher.subscription.get_publisher_count()
        ):
            if time.monotonic() > end:
                raise RuntimeError("the node does not listen to the camera")
            time.sleep(0.02)
