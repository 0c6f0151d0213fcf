"""Evaluates a running node: fills its memory, plays frames to it, and keeps what it answers."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import LiveResult
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.live import Heard, Hit
from vla_retrieval.experiments.searching import DIRECTIONS, asking
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns
from vla_retrieval.ros.recorded_images import to_image
from vla_retrieval.ros.remote import RemoteParameters
from vla_retrieval.types import Target
from vla_retrieval_msgs.msg import MatchArray, Query, Status

Progress = Callable[[str, int, int], None]

_WITHIN_SEC = 60.0
_IMAGE_FIELDS = ("image", "compressed_image")
_TRY_SEC = 0.5
_LEAD_SEC = 0.1
_AT_ONCE = 8  # pairs that are remembered, on their way at a time
_NS_PER_SEC = 1_000_000_000
_TARGETS = {
    Target.SCENES: Query.TARGET_SCENES,
    Target.INSTRUCTIONS: Query.TARGET_INSTRUCTIONS,
    Target.PAIR: Query.TARGET_PAIR,
}
_PUBLISHED = "pair"
"""The direction that the node publishes; the others are asked for by service."""
_STAGES = ("queue", "decode", "encode_image", "encode_instruction", "search", "fetch", "total")


@dataclass(frozen=True)
class ReplayOptions:
    """How frames are played.

    Attributes:
        rate: Speed against the bag's own time; 0 plays the next frame when the last one is
            answered, so that none is dropped.
        most_gap_sec: Longest pause between two frames, before ``rate``: what lies between two
            episodes that ask is not played.
        answer_sec: Longest wait for the answers to a frame, at rate 0 and at the end.

    Raises:
        InvalidInputError: If a number is out of its range.
    """

    rate: float = 1.0
    most_gap_sec: float = 1.0
    answer_sec: float = 10.0

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("rate", "most_gap_sec", "answer_sec"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(name, "a finite number from 0 on", str(value))


@dataclass(frozen=True)
class Filled:
    """What a node was filled with.

    Attributes:
        gallery: The frames that it remembers, in the order of their positions.
        position_of: Entry id to position.
        refused: Why other frames are no pictures -> how many.
    """

    gallery: tuple[Frame, ...]
    position_of: Mapping[int, int]
    refused: Mapping[str, int]


def fill(client: RetrievalClient, gallery: Sequence[Frame], progress: Progress) -> Filled:
    """Remember frames in an empty node.

    Args:
        client: Of the node.
        gallery: In the order of their positions.
        progress: Told how far it is.

    Raises:
        InvalidInputError: If the node's memory is not empty, or it keeps less than it is given.
        RetrievalError: If it refuses a frame for another reason than that it is no picture.
    """
    stats = client.call("get_stats", _WITHIN_SEC)
    if stats.memory_size:
        raise InvalidInputError(
            "memory", "a node that remembers nothing yet", f"{stats.memory_size} entries in "
            f"{stats.memory_dir}", "Start the node with a new memory_dir.",
        )  # fmt: skip
    free = threading.Semaphore(_AT_ONCE)
    futures: list[Future[Any]] = []
    for number, frame in enumerate(gallery):
        free.acquire()
        message = to_image(frame.message(), max(1, frame.stamp_ns))
        field = "image" if isinstance(message, Image) else "compressed_image"
        future = client.call_async(
            "remember", _WITHIN_SEC, instruction=frame.instruction, episode_id=frame.episode_id,
            **{field: message},
        )  # fmt: skip
        future.add_done_callback(lambda _: free.release())
        futures.append(future)
        progress("remembering", number + 1, len(gallery))
    for _ in range(_AT_ONCE):
        if not free.acquire(timeout=_WITHIN_SEC):
            raise TimeoutError(f"the node did not remember a frame within {_WITHIN_SEC:g} s")
    return _filled([future.result() for future in futures], gallery)


def _filled(responses: Sequence[Any], gallery: Sequence[Frame]) -> Filled:
    kept: list[tuple[Frame, int]] = []
    refused: Counter[str] = Counter()
    for frame, response in zip(gallery, responses, strict=True):
        field = response.message.partition(":")[0]
        if response.status.code == Status.INVALID_REQUEST and field.startswith(_IMAGE_FIELDS):
            refused[field] += 1  # offline, it is left out too
            continue
        if not response.success:
            raise RetrievalError(f"{frame.query_id} was not remembered: {response.message}")
        if response.merged or len(response.evicted_ids):
            raise InvalidInputError(
                "node", "one that keeps all it is given", f"{frame.query_id} merged or others "
                "evicted", "Start the node without merge_scene_similarity and bounds.",
            )  # fmt: skip
        kept.append((frame, int(response.entry_id)))
    ids = [entry_id for _, entry_id in kept]
    # Equal scores rank by id, as positions do offline.
    if ids != sorted(ids):
        raise RetrievalError("the node numbered entries in another order than they were sent in")
    positions = {entry_id: position for position, entry_id in enumerate(ids)}
    return Filled(tuple(frame for frame, _ in kept), positions, refused)


class Replay:
    """Plays frames to a node and keeps its answers.

    Args:
        client: Of the node.
        positions: Entry id to position in the gallery.
        settings: What is wanted of the answers.
        options: How frames are played.
    """

    def __init__(
        self,
        client: RetrievalClient,
        positions: Mapping[int, int],
        settings: ExperimentSettings,
        options: ReplayOptions,
    ) -> None:
        self._client = client
        self._positions = positions
        self._settings = settings
        self._options = options
        self._parameters = RemoteParameters(client.node, "retrieval", _WITHIN_SEC)
        # Everything below is shared by the thread that plays and the one that hears.
        self._changed = threading.Condition()
        self._played: dict[int, Frame] = {}  # stamp to frame
        self._hits: dict[str, dict[str, list[Hit]]] = {name: {} for name in DIRECTIONS}
        self._latencies: list[float] = []
        self._ages: list[float] = []
        self._stalenesses: list[float] = []
        self._newest_ns: int | None = None  # stamp of the newest image that was answered
        self._stages: dict[str, list[float]] = {}
        self._outdated: set[str] = set()
        self._waiting = 0
        self._foreign = 0

    def run(self, frames: Sequence[Frame], progress: Progress) -> Heard:
        """Play frames and ask, with the parameters that this needs.

        Args:
            frames: In the order of their bags.
            progress: Told how far it is.

        Raises:
            InvalidInputError: If the node reads other images than the bag has.
            RetrievalError: If the node ends or refuses.
        """
        kinds = {type(to_image(frame.message(), 1)) for frame in frames}
        transport = self._parameters.get(["image_transport"])["image_transport"]
        kind = Image if transport == "raw" else CompressedImage
        if kinds != {kind}:
            raise InvalidInputError(
                "image_transport", "that of the bag's images", f"{transport}, and the bag has "
                f"{' and '.join(sorted(k.__name__ for k in kinds))}",
                "Start the node with the other image_transport, or name one --image-topic.",
            )  # fmt: skip
        wanted = {
            "k": self._settings.depth, "query_target": "pair", "query_mode": "frame",
            "min_score": -1000.0, "query_diversity": 0.0, "remember_mode": "never",
            "scene_weight": self._settings.scene_weight,
        }  # fmt: skip
        before = self._client.call("get_stats", _WITHIN_SEC)
        with self._parameters.temporarily(wanted):
            self._play(frames, kind, progress)
            self._ask_by_words(frames, progress)
        after = self._client.call("get_stats", _WITHIN_SEC)
        return self._heard(len(frames), before, after)

    def _play(self, frames: Sequence[Frame], kind: Any, progress: Progress) -> None:
        node = self._client.node
        subscription = node.create_subscription(
            MatchArray, "retrieval/matches", self._on_matches, 100
        )
        topic = "image" if kind is Image else "image/compressed"
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        camera = node.create_publisher(kind, topic, reliable)
        instructions = node.create_publisher(String, "instruction", 10)
        self._wait_for_peers(camera, instructions, subscription)
        said = None
        due = time.monotonic()
        for number, frame in enumerate(frames):
            gap_sec = self._gap_sec(frames[number - 1], frame) if number else _LEAD_SEC
            due += gap_sec
            message = to_image(frame.message(), 1)
            if (frame.instruction, frame.episode_id) != said:
                # Between two frames: topics have no order among each other, and the frame before
                # may not be answered yet.
                _sleep_until(due - min(_LEAD_SEC, gap_sec / 2))
                instructions.publish(String(data=frame.instruction))
                said = frame.instruction, frame.episode_id
            _sleep_until(due)
            self._send(camera, message, frame)
            progress("playing", number + 1, len(frames))
            if not self._options.rate:
                self._insist(camera, message, frame)
        self._wait_for_answers(frames[-1], self._options.answer_sec, also_outdated=True)

        def leave() -> None:
            for publisher in (camera, instructions):
                node.destroy_publisher(publisher)
            node.destroy_subscription(subscription)

        self._client.between_callbacks(leave)

    def _wait_for_peers(self, camera: Any, instructions: Any, subscription: Any) -> None:
        """Return once the node hears both topics and is heard."""
        end = time.monotonic() + _WITHIN_SEC
        peers: list[Callable[[], int]] = [
            camera.get_subscription_count, instructions.get_subscription_count,
            subscription.get_publisher_count,
        ]  # fmt: skip
        while not all(count() for count in peers):
            if time.monotonic() > end:
                raise TimeoutError("the node does not listen to image and instruction")
            time.sleep(0.02)

    def _gap_sec(self, last: Frame, frame: Frame) -> float:
        if not self._options.rate:
            return 0.0
        gap = (frame.stamp_ns - last.stamp_ns) / _NS_PER_SEC if frame.bag == last.bag else math.inf
        return min(max(gap, 0.0), self._options.most_gap_sec) / self._options.rate

    def _send(self, camera: Any, message: Any, frame: Frame) -> None:
        with self._changed:
            stamp_ns = time.time_ns()
            while stamp_ns in self._played:  # a clock of microseconds
                stamp_ns += 1
            self._played[stamp_ns] = frame
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, _NS_PER_SEC)
        camera.publish(message)

    def _insist(self, camera: Any, message: Any, frame: Frame) -> None:
        """Return once a frame is answered with its instruction, sending it again meanwhile."""
        end = time.monotonic() + self._options.answer_sec
        while not self._wait_for_answers(frame, _TRY_SEC) and time.monotonic() < end:
            self._send(camera, message, frame)

    def _wait_for_answers(
        self, frame: Frame, within_sec: float, *, also_outdated: bool = False
    ) -> bool:
        """Return whether a frame and all that was asked about it is answered in time."""

        def answered() -> bool:
            heard = frame.query_id in self._hits[_PUBLISHED]
            return (
                heard or (also_outdated and frame.query_id in self._outdated)
            ) and not self._waiting

        with self._changed:
            return self._changed.wait_for(answered, within_sec)

    def _on_matches(self, message: Any) -> None:
        received_ns = time.time_ns()
        stamp_ns = to_ns(message.header.stamp)
        with self._changed:
            frame = self._played.get(stamp_ns)
            if frame is None:
                return
            self._latencies.append((received_ns - stamp_ns) / _NS_PER_SEC)
            self._ages.append(float(message.image_age_sec))
            if self._newest_ns is not None:
                self._stalenesses.append((received_ns - self._newest_ns) / _NS_PER_SEC)
            self._newest_ns = max(stamp_ns, self._newest_ns or stamp_ns)
            for stage in _STAGES:
                seconds = float(getattr(message.times, f"{stage}_sec"))
                self._stages.setdefault(stage.replace("_", " "), []).append(seconds)
            if message.query.instruction != frame.instruction:
                self._outdated.add(frame.query_id)
            else:
                self._outdated.discard(frame.query_id)
                self._hits[_PUBLISHED][frame.query_id] = self._hits_of(message)
                self._ask_about(frame, stamp_ns)
            self._changed.notify_all()

    def _ask_about(self, frame: Frame, stamp_ns: int) -> None:
        """Ask by service about the frame that was just answered, while it is the newest one."""
        for direction, (by_image, by_text, target) in DIRECTIONS.items():
            if by_image and not by_text:
                self._waiting += 1
                future = self._client.call_async(
                    "retrieve", use_newest_frame=True, target=_TARGETS[target],
                    k=self._settings.depth,
                )  # fmt: skip
                future.add_done_callback(
                    lambda future, direction=direction: self._on_answer(
                        direction, frame, stamp_ns, future.result()
                    )
                )

    def _on_answer(self, direction: str, frame: Frame, stamp_ns: int, response: Any) -> None:
        with self._changed:
            self._waiting -= 1
            # Another frame may have become the newest one meanwhile; that one is asked about too.
            if response.success and to_ns(response.result.header.stamp) == stamp_ns:
                self._hits[direction][frame.query_id] = self._hits_of(response.result)
            self._changed.notify_all()

    def _ask_by_words(self, frames: Sequence[Frame], progress: Progress) -> None:
        for direction, (by_image, _, target) in DIRECTIONS.items():
            if by_image:
                continue
            asked = asking(frames, direction)
            for number, frame in enumerate(asked):
                response = self._client.call(
                    "retrieve", _WITHIN_SEC, instruction=frame.instruction,
                    target=_TARGETS[target], k=self._settings.depth,
                )  # fmt: skip
                if not response.success:
                    raise RetrievalError(f"{frame.instruction!r}: {response.message}")
                self._hits[direction][frame.query_id] = self._hits_of(response.result)
                progress(f"asking: {direction}", number + 1, len(asked))

    def _hits_of(self, answer: Any) -> list[Hit]:
        known = [m for m in answer.matches if m.entry_id in self._positions]
        self._foreign += len(answer.matches) - len(known)
        return [(self._positions[m.entry_id], float(m.score)) for m in known]

    def _heard(self, played: int, before: Any, after: Any) -> Heard:
        with self._changed:
            answered = len(self._hits[_PUBLISHED])
            received, refused, skipped = (
                int(getattr(after, name)) - int(getattr(before, name))
                for name in ("frames_received", "frames_rejected", "frames_skipped")
            )
            causes = {
                "answered with another instruction than the one in force": len(self._outdated),
                "refused by the node": refused,
                "lost on their way to the node": played - received,
                "replaced by a newer frame before their turn": skipped,
                "without an answer in time": played,
            }
            live = LiveResult(
                played, answered, scoring.summarise(self._latencies), scoring.summarise(self._ages),
                _shared_out(played - answered, causes), scoring.summarise(self._stalenesses),
            )  # fmt: skip
            notes = [_how(self._options)]
            if self._foreign:
                notes.append(
                    f"{self._foreign} matches are left out: entries that somebody else made the "
                    "node remember meanwhile."
                )
            return Heard(live, self._hits, self._stages, notes)


def _sleep_until(at_sec: float) -> None:
    time.sleep(max(0.0, at_sec - time.monotonic()))


def _shared_out(missing: int, causes: Mapping[str, int]) -> dict[str, int]:
    """Return why frames have no answer; a frame that was sent twice counts for no cause."""
    drops = {}
    for why, count in causes.items():
        of_these = min(max(0, count), missing)
        missing -= of_these
        if of_these:
            drops[why] = of_these
    return drops


def _how(options: ReplayOptions) -> str:
    speed = (
        f"at {options.rate:g} times the bag's speed, with pauses of {options.most_gap_sec:g} s at "
        "most" if options.rate else "each when the one before it was answered"
    )  # fmt: skip
    return (
        f"Frames were played {speed}, and stamped when they were sent. The pair is what the node "
        "published; a scene alone was asked for by service while its frame was the newest one, so "
        "that a scene may be missing there; instructions were asked for by service afterwards."
    )
