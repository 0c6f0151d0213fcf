"""Plays bags into a node by ``ros2 bag play``, with the stamps and the clock of the recording."""

from __future__ import annotations

import bisect
import importlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.topics import RAW_IMAGE
from vla_retrieval.ros.bag_clock import BagClock
from vla_retrieval.ros.bag_process import CLOCK_HZ, NODE_NAME, BagProcess, play_command
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns
from vla_retrieval.ros.playing import (
    Listener,
    Progress,
    ReplayOptions,
    Showing,
    check_listening,
    wait_until,
)

_WITHIN_SEC = 60.0
_LOOK_SEC = 0.2
_NEARLY_SEC = 1.0
"""Of playing, that a player may end before the last image by the clock, whose end may be lost."""

_NS_PER_SEC = 1_000_000_000
# As the other player sends, so that what is played arrives however it was recorded.
_QOS = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "volatile"}


def resume_type() -> Any:
    """Return the type of the service that lets a player go on, rosbag2_interfaces/srv/Resume.

    Raises:
        ImportError: If it is not installed for this Python.
    """
    return importlib.import_module("rosbag2_interfaces.srv").Resume


@dataclass(frozen=True)
class RecordedBag:
    """A bag as a player needs it.

    Attributes:
        name: As its frames call it.
        images: Topics of images, all of one type.
        instruction: Topic of instructions, of std_msgs/String.
        kind: Message type of the images.
        count: Image messages on these topics, good or not.
        last: The frame that was recorded last.
    """

    name: str
    path: Path
    images: tuple[str, ...]
    instruction: str
    kind: str
    count: int
    last: Frame


class Rosbag2Player:
    """Plays whole bags, one after the other; the frames that ask are found by stamp and frame id.

    Args:
        client: Of the node.
        bags: In the order of their frames. Stamps and frame ids of a bag's frames differ.
        clock_topic: By which the node goes when it is told to use simulated time.
        program: The command ``ros2``.
        options: How frames are played, with a rate above 0.
    """

    name = "ros2 bag"

    def __init__(
        self,
        client: RetrievalClient,
        bags: Sequence[RecordedBag],
        clock_topic: str,
        program: str,
        options: ReplayOptions,
    ) -> None:
        """Start nothing yet."""
        self._client = client
        self._bags = {bag.name: bag for bag in bags}
        self._clock_topic = clock_topic
        self._program = program
        self._options = options
        self._sent = 0
        # The rest is used by the thread that hears, the clock by it alone; the one that plays
        # replaces frames and what is last as a whole, between two bags, when nothing is played.
        self._clock = BagClock(options.rate)
        self._asked: Mapping[tuple[int, str], Frame] = {}
        self._last: tuple[int, str] | None = None
        self._last_came = threading.Event()

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The node goes by the bag's clock, or each image would be as old as the bag."""
        return {"use_sim_time": True}

    @property
    def images_sent(self) -> int:
        """Images of all bags that were played to the end."""
        return self._sent

    def find(self, stamp_ns: int, frame_id: str) -> Showing | None:
        """Return the frame of this bag with a header, or None; for the thread that hears."""
        key = stamp_ns, frame_id
        if key == self._last:
            self._last_came.set()
        frame = self._asked.get(key)
        if frame is None:
            return None
        shown_sec = self._clock.steady_sec(frame.received_ns)
        if shown_sec is None:  # an answer from before the bag was played
            return None
        delay_sec = (frame.received_ns - stamp_ns) / _NS_PER_SEC
        return Showing(frame, shown_sec, delay_sec, self._options.rate)

    def describe(self) -> str:
        """Return sentences about how it plays, for the report."""
        return (
            f"Bags were played by {self.name}, whole, at {self._options.rate:g} times their speed, "
            "with the recorded stamps; frames that do not ask are not scored. Times contain the "
            "recorded delay from an image's stamp to its receipt by the recorder. Ages are "
            f"by the node's clock, which follows the bag's in {CLOCK_HZ} steps a second and some "
            "milliseconds late, so that they come out that much too low. Why frames have no answer "
            f"is counted by the node over all {self._sent} images that were played."
        )

    def play(self, frames: Sequence[Frame], listener: Listener, progress: Progress) -> None:
        """Play the bags that have one of the frames.

        Args:
            frames: In the order of their bags.
            listener: Hears the answers.
            progress: Told how far it is.

        Raises:
            RetrievalError: If ``ros2 bag play`` fails, or the node hears nothing of it or ends.
            TimeoutError: If it does not begin, or the node does not listen.
        """
        node = self._client.node
        subscription = node.create_subscription(
            Clock, self._clock_topic, self._on_clock,
            QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT),
        )  # fmt: skip
        done = 0
        places = {name: place for place, name in enumerate(self._bags)}
        # Frames that have an answer, then those that have none: each in the order of the bags.
        ordered = sorted(frames, key=lambda frame: places[frame.bag])
        for name, group in groupby(ordered, key=lambda frame: frame.bag):
            of_bag = list(group)

            def report(count: int, before: int = done) -> None:
                progress("playing", before + count, len(frames))

            self._play_bag(self._bags[name], of_bag, listener, report)
            done += len(of_bag)
        self._client.between_callbacks(lambda: node.destroy_subscription(subscription))

    def _play_bag(
        self,
        bag: RecordedBag,
        frames: Sequence[Frame],
        listener: Listener,
        report: Callable[[int], None],
    ) -> None:
        def turn_to_it() -> None:
            self._asked = {(frame.stamp_ns, frame.frame_id): frame for frame in frames}
            self._last = bag.last.stamp_ns, bag.last.frame_id
            self._last_came.clear()
            self._clock.start_over()

        self._client.between_callbacks(turn_to_it)
        before = self._frames_received()
        targets = self._targets(bag)
        image = targets[bag.images[0]]
        with self._process(bag, targets) as process:
            try:
                self._begin(process, targets, frames[0].instruction)
            except TimeoutError as error:
                raise process.failed(str(error)) from error
            received = sorted(frame.received_ns for frame in frames)
            while not process.has_ended(_LOOK_SEC):
                report(bisect.bisect_right(received, self._clock.said_ns or 0))
                check_listening(self._client.node.count_subscribers(image), image)
            process.check()
            self._check_whole(process, bag)
            if self._frames_received() == before:
                raise process.failed("the node heard no image of it")
        self._sent += bag.count
        self._last_came.wait(self._options.answer_sec)
        listener.wait_until_quiet(self._options.answer_sec)
        report(len(frames))

    def _targets(self, bag: RecordedBag) -> dict[str, str]:
        """Return topic in the bag to topic in the graph."""
        resolve = self._client.node.resolve_topic_name
        image = resolve("image" if bag.kind == RAW_IMAGE else "image/compressed")
        return {**dict.fromkeys(bag.images, image), bag.instruction: resolve("instruction")}

    @contextmanager
    def _process(self, bag: RecordedBag, targets: Mapping[str, str]) -> Iterator[BagProcess]:
        with tempfile.TemporaryDirectory(prefix="replay_evaluation.") as folder:
            qos = Path(folder) / "qos.yaml"
            qos.write_text(yaml.safe_dump({topic: dict(_QOS) for topic in targets}))
            command = play_command(
                self._program, bag.path, targets, self._clock_topic,
                self._client.node.get_namespace(), qos, self._options.rate,
            )  # fmt: skip
            with BagProcess(command, bag.path, Path(folder) / "output.txt") as process:
                yield process

    def _begin(self, process: BagProcess, targets: Mapping[str, str], instruction: str) -> None:
        """Let a player that waits go on, once the node hears it."""
        node = self._client.node
        resume = resume_type()
        client = node.create_client(resume, f"{NODE_NAME}/resume")

        def is_there() -> bool:
            process.check_running()
            return bool(client.service_is_ready()) and all(
                map(node.count_publishers, targets.values())
            )

        def is_heard() -> bool:
            # An answer to words has the time by the node's clock, and the clock of a player that
            # waits stands still.
            process.check_running()
            answer = self._client.call("retrieve", _WITHIN_SEC, instruction=instruction, k=1)
            return self._clock.said_ns == to_ns(answer.result.header.stamp)

        wait_until(is_there, _WITHIN_SEC, "it does not publish images and instructions")
        wait_until(is_heard, _WITHIN_SEC, "the node does not go by its clock")
        done = threading.Event()
        client.call_async(resume.Request()).add_done_callback(lambda _: done.set())
        # A short bag may be over before the answer is here.
        wait_until(lambda: done.is_set() or process.has_ended(0), _WITHIN_SEC, "it does not go on")
        self._client.between_callbacks(lambda: node.destroy_client(client))

    def _check_whole(self, process: BagProcess, bag: RecordedBag) -> None:
        """Raise RetrievalError if a player ended well before the bag did."""

        def left_sec() -> float:
            return (bag.last.received_ns - (self._clock.said_ns or 0)) / _NS_PER_SEC

        # What it said last may still be on its way.
        if self._last_came.wait(_NEARLY_SEC) or left_sec() <= _NEARLY_SEC * self._options.rate:
            return
        raise process.failed(
            f"it ended {left_sec():.1f} s of the bag before the last image, {process.ending}"
        )

    def _on_clock(self, message: Any) -> None:
        self._clock.take(to_ns(message.clock), time.monotonic())

    def _frames_received(self) -> int:
        return int(self._client.call("get_stats", _WITHIN_SEC).frames_received)
