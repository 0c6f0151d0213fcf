"""A real node in a process of its own, on a ROS domain of its own, and a client to talk to it."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval.ros.images import to_image_message

SHARED_MEMORY = Path("/dev/shm")
START_SEC = 90.0
WAIT_SEC = 60.0
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class NodeProcess:
    """``retrieval_node`` as a robot runs it."""

    def __init__(self, log: Path, *, prefix: Sequence[str] = (), **parameters: Any) -> None:
        """Start it with parameters; the test double encodes unless another model is named.

        A prefix is a command that runs the rest of its arguments.
        """
        values = {"model": "double", **parameters}
        command = [*prefix, sys.executable, "-m", "vla_retrieval.ros.main", "--ros-args"]
        for name, value in values.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        self._log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def segments(self) -> set[str]:
        """Names of Fast DDS's segments that it maps, its own and its peers', in /dev/shm."""
        maps = Path(f"/proc/{self.process.pid}/maps").read_text(encoding="utf-8")
        return set(re.findall(rf"{SHARED_MEMORY}/(fastdds_[0-9a-f]{{16}})$", maps, re.MULTILINE))

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        if self.is_alive():
            os.killpg(self.process.pid, number)
        return self.process.wait(WAIT_SEC)

    def wait_for_log(self, text: str) -> None:
        """Return once it has printed a text."""
        wait_until(lambda: text in self.log or not self.is_alive(), f"{text!r} in the log")
        assert text in self.log, self.log


def locks_of_segments() -> set[Path]:
    """Return the files by which Fast DDS's processes hold their shared memory."""
    return set(SHARED_MEMORY.glob("fastdds_*_el"))


def remove_abandoned(lock: Path) -> None:
    """Remove a segment that no process has locked, as ``fastdds shm clean`` does."""
    with contextlib.suppress(OSError), lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.with_name(lock.name.removesuffix("_el")).unlink()
        lock.unlink()


class Robot:
    """What is around the node: a camera, a person who gives instructions, a planner."""

    def __init__(self, compressed: bool = False) -> None:
        """Join the graph of the current ROS domain."""
        self.client = RetrievalClient(name="robot")
        node = self.client.node
        kind = CompressedImage if compressed else Image
        topic = "image/compressed" if compressed else "image"
        self.camera = node.create_publisher(kind, topic, BEST_EFFORT)
        self.instructions = node.create_publisher(String, "instruction", 10)

    def close(self) -> None:
        """Leave the graph."""
        self.client.close()

    def call(self, service: str, **fields: Any) -> Any:
        """Call a service and return its response."""
        return self.client.call(service, WAIT_SEC, **fields)

    def wait_until_heard(self) -> None:
        """Return once the node listens to the camera and to the instructions."""
        for publisher in (self.camera, self.instructions):
            wait_until(
                lambda p=publisher: p.get_subscription_count() > 0,  # type: ignore[misc]
                f"a subscriber of {publisher.topic_name}",
            )

    def say(self, text: str) -> None:
        """Give an instruction, and return when the node has it."""
        self.instructions.publish(String(data=text))

    def show(self, pixels: NDArray[np.uint8], stamp_ns: int) -> None:
        """Let the camera see a picture."""
        self.camera.publish(image_message(pixels, stamp_ns))

    def collect(self, kind: Any, topic: str) -> Collector:
        """Subscribe, and return what comes."""
        return Collector(self.client.node, kind, topic)


class Collector:
    """Keeps the messages of a topic."""

    def __init__(self, node: Any, kind: Any, topic: str) -> None:
        """Subscribe, and wait for the publisher."""
        self.messages: list[Any] = []
        self._arrived = threading.Condition()
        self._subscription = node.create_subscription(kind, topic, self._take, 10)
        wait_until(lambda: self._subscription.get_publisher_count() > 0, f"publisher of {topic}")

    def _take(self, message: Any) -> None:
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait_for(self, accept: Callable[[Any], bool] = lambda _: True) -> Any:
        """Return the first message that is accepted."""
        with self._arrived:
            self._arrived.wait_for(lambda: any(map(accept, self.messages)), WAIT_SEC)
            return next(filter(accept, self.messages))


def wait_until(
    condition: Callable[[], bool],
    what: str,
    timeout_sec: float = WAIT_SEC,
    period_sec: float = 0.01,
) -> None:
    """Return once a condition holds that nothing announces; fail after a generous time."""
    end = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_sec:g} s for {what}"
        time.sleep(period_sec)  # the poll's period, not a wait for something to happen


def ask(client: Any, request: Any) -> Any:
    """Return the answer to a request that does no harm when it comes twice.

    It is sent again every second: an answer that is sent before the node has discovered the
    client is lost.
    """
    answers: list[Any] = []
    sent_sec = -math.inf

    def answered() -> bool:
        nonlocal sent_sec
        if time.monotonic() - sent_sec > 1.0:
            answers.append(client.call_async(request))
            sent_sec = time.monotonic()
        return any(future.done() for future in answers)

    wait_until(answered, client.srv_name)
    return next(future for future in answers if future.done()).result()


def image_message(pixels: NDArray[np.uint8], stamp_ns: int, frame_id: str = "camera") -> Image:
    """Return an RGB picture as a message."""
    header = Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)
    return to_image_message(pixels, Image(header=header))


def picture(seed: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Return a picture of coloured patches that is like no other seed's."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 6 // height, np.arange(width) * 8 // width
    return np.ascontiguousarray(patches[rows][:, columns])
