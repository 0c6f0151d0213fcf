"""Evaluates a running node: fills its memory, has frames played to it, keeps its answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import LiveResult
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.live import Heard
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.ros.answers import Answers
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.playing import Player, Progress, wait_until
from vla_retrieval.ros.recorded_images import to_image
from vla_retrieval.ros.remote import RemoteParameters
from vla_retrieval_msgs.msg import MatchArray, Status

_WITHIN_SEC = 60.0
_IMAGE_FIELDS = ("image", "compressed_image")
_AT_ONCE = 8  # pairs that are remembered, on their way at a time


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
        TimeoutError: If it does not answer.
    """
    stats = client.call("get_stats", _WITHIN_SEC)
    if stats.memory_size:
        raise InvalidInputError(
            "memory", "a node that remembers nothing yet", f"{stats.memory_size} entries in "
            f"{stats.memory_dir}", "Start the node with a new memory_dir; what an evaluation left "
            "that was broken off can be removed.",
        )  # fmt: skip
    free = threading.Semaphore(_AT_ONCE)
    futures: list[Future[Any]] = []

    def wait_for_one() -> None:
        if not free.acquire(timeout=_WITHIN_SEC):
            raise TimeoutError(f"the node did not remember a frame within {_WITHIN_SEC:g} s")

    for number, frame in enumerate(gallery):
        wait_for_one()  # a node that ended never answers
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
        wait_for_one()
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
    """Has frames played to a node and keeps its answers.

    Args:
        client: Of the node.
        positions: Entry id to position in the gallery.
        settings: What is wanted of the answers.
        player: Who plays.
    """

    def __init__(
        self,
        client: RetrievalClient,
        positions: Mapping[int, int],
        settings: ExperimentSettings,
        player: Player,
    ) -> None:
        self._client = client
        self._settings = settings
        self._player = player
        self._answers = Answers(client, positions, settings.depth, player)
        self._parameters = RemoteParameters(client.node, "retrieval", _WITHIN_SEC)

    def run(self, frames: Sequence[Frame], progress: Progress) -> Heard:
        """Play frames and ask, with the parameters that this needs.

        Args:
            frames: In the order of their bags.
            progress: Told how far it is.

        Raises:
            InvalidInputError: If the node reads other images than the bag has.
            RetrievalError: If the node ends or refuses, or the player fails.
            TimeoutError: If one of them does not answer.
        """
        self._check_kind(frames)
        wanted = {
            "k": self._settings.depth, "query_target": "pair", "query_mode": "frame",
            "min_score": -1000.0, "query_diversity": 0.0, "remember_mode": "never",
            "scene_weight": self._settings.scene_weight, **self._player.parameters,
        }  # fmt: skip
        before = self._client.call("get_stats", _WITHIN_SEC)
        with self._parameters.temporarily(wanted):
            self._play(frames, progress)
            self._answers.ask_by_words(frames, progress)
        after = self._client.call("get_stats", _WITHIN_SEC)
        return self._heard(len(frames), before, after)

    def _check_kind(self, frames: Sequence[Frame]) -> None:
        # One message of each topic: all of them are as much to read as the bag.
        one_each = {(frame.bag, frame.topic): frame for frame in frames}.values()
        kinds = {type(to_image(frame.message(), 1)) for frame in one_each}
        transport = self._parameters.get(["image_transport"])["image_transport"]
        if kinds != {Image if transport == "raw" else CompressedImage}:
            raise InvalidInputError(
                "image_transport", "that of the bag's images", f"{transport}, and the bag has "
                f"{' and '.join(sorted(k.__name__ for k in kinds))}",
                "Start the node with the other image_transport, or name one --image-topic.",
            )  # fmt: skip

    def _play(self, frames: Sequence[Frame], progress: Progress) -> None:
        node = self._client.node
        subscription = node.create_subscription(
            MatchArray, "retrieval/matches", self._answers.take, 100
        )
        wait_until(
            subscription.get_publisher_count, _WITHIN_SEC, "the node does not publish matches"
        )
        self._player.play(frames, self._answers, progress)
        self._client.between_callbacks(lambda: node.destroy_subscription(subscription))

    def _heard(self, played: int, before: Any, after: Any) -> Heard:
        answers = self._answers
        received, refused, skipped = (
            int(getattr(after, name)) - int(getattr(before, name))
            for name in ("frames_received", "frames_rejected", "frames_skipped")
        )
        causes = {
            "answered with another instruction than the one in force": answers.outdated,
            "refused by the node": refused,
            "lost on their way to the node": self._player.images_sent - received,
            "replaced by a newer frame before their turn": skipped,
            "without an answer in time": played,
        }
        live = LiveResult(
            played, answers.answered, scoring.summarise(answers.latencies),
            scoring.summarise(answers.ages), _shared_out(played - answers.answered, causes),
            scoring.summarise(answers.stalenesses), player=self._player.name,
        )  # fmt: skip
        notes = [
            f"{self._player.describe()} The pair is what the node published; a scene alone was "
            "asked for by service while its frame was the newest one, so that a scene may be "
            "missing there; instructions were asked for by service afterwards."
        ]
        if answers.foreign:
            notes.append(
                f"{answers.foreign} matches are left out: entries that somebody else made the "
                "node remember meanwhile."
            )
        return Heard(live, answers.hits, answers.stages, notes)


def _shared_out(missing: int, causes: Mapping[str, int]) -> dict[str, int]:
    """Return why frames have no answer; a frame that was sent twice counts for no cause."""
    drops = {}
    for why, count in causes.items():
        of_these = min(max(0, count), missing)
        missing -= of_these
        if of_these:
            drops[why] = of_these
    return drops
