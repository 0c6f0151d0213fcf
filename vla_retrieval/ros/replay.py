"""Evaluates a running node: fills its memory, plays the frames that ask, asks it, and scores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message

from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.frames import Frame, Recording
from vla_retrieval.evaluation.recordings import image_type, read_recordings
from vla_retrieval.evaluation.splits import Split
from vla_retrieval.evaluation.topics import COMPRESSED_IMAGE
from vla_retrieval.experiments.assembling import (
    Outcome,
    assemble,
    check_answerable,
    in_order,
    split_recordings,
)
from vla_retrieval.experiments.frame_store import Progress
from vla_retrieval.experiments.live import PUBLISHED, Hits, LiveAnswers, Pass
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import ANY_SCORE, to_target_number
from vla_retrieval.ros.frame_player import FramePlayer, GraphTopics, MatchRecorder
from vla_retrieval.ros.live_settings import changed_parameters
from vla_retrieval.ros.player import message_class
from vla_retrieval.types import Embeddings, Modality, Similarity
from vla_retrieval_msgs.msg import Status
from vla_retrieval_msgs.srv import GetStats

_COUNTS = ("frames_received", "frames_rejected", "queries_answered", "queries_failed")
_LAST_ANSWER_SEC = 20.0
_HEARD_SEC = 30.0


@dataclass(frozen=True)
class LiveSettings:
    """How a running node is evaluated.

    Attributes:
        rate: Speed against the bag's own time.
        namespace: Of the node.
        topics: Where it listens.
        start_within_sec: Longest wait until it is active.

    Raises:
        InvalidInputError: If a value is out of its range.
    """

    rate: float = 1.0
    namespace: str = ""
    topics: GraphTopics = field(default_factory=GraphTopics)
    start_within_sec: float = 120.0

    def __post_init__(self) -> None:
        """Check each value against its range."""
        if not 0.0 < self.rate <= 1000.0:
            raise InvalidInputError("rate", "a number above 0, 1000 at most", str(self.rate))


def evaluate_node(
    paths: Sequence[Path],
    settings: ExperimentSettings,
    live: LiveSettings,
    stop: threading.Event,
    progress: Progress = lambda doing, done, total: None,
) -> Outcome:
    """Evaluate a running node over bags.

    The episodes that make the memory are remembered through the node's service; those that ask are
    played into its topics, where its answers are the direction ``pair``. The frames that were
    answered then ask for the other directions through its service.

    Args:
        paths: Of rosbag2 folders or files.
        settings: What is wanted; ``similarity`` is the node's, whatever is said here.
        live: How the node is met.
        stop: Ends it early.
        progress: Told how far it is.

    Raises:
        InvalidInputError: If a bag cannot be evaluated, or the node's memory is not empty.
        RetrievalError: If the node cannot be used.
        TimeoutError: If it does not answer.
    """
    recordings = read_recordings(paths, settings.reading)
    split = split_recordings(recordings, settings)
    check_answerable(split.gallery, split.queries)
    kind = image_type(paths, settings.reading)
    with RetrievalClient(live.namespace, "replay_evaluation") as client:
        stats = _meet(client, live, stop)
        chosen = replace(settings, similarity=Similarity(stats.similarity))
        with changed_parameters(client.node, _parameters(chosen)):
            memory = _fill(client, in_order(recordings, split.gallery), stop, progress)
            recorder = MatchRecorder(client.node)
            played = _play(client, _asking(recordings, split), live, kind, recorder, stop, progress)
            answers = _answers(client, split, memory, played, chosen, stop)
            model = {
                "model": stats.model, "weights": stats.fingerprint,
                "node": f"on {stats.device} ({stats.precision}), index {stats.index_kind}",
                "played at": f"{live.rate:g} times the bag's speed",
            }  # fmt: skip
            deciding = {"fingerprint": stats.fingerprint, "live": True}
            outcome = assemble(answers, recordings, split, chosen, model, deciding)
    notes = (*outcome.evaluation.notes, *_notes(split, played, recorder))
    evaluation = replace(outcome.evaluation, notes=notes, live=played.result())
    return replace(outcome, evaluation=evaluation)


def _meet(client: RetrievalClient, live: LiveSettings, stop: threading.Event) -> GetStats.Response:
    if not client.wait_until_active(lambda: not stop.is_set(), live.start_within_sec):
        where = f"{live.namespace.rstrip('/')}/retrieval"
        raise RetrievalError(
            f"no active node {where} within {live.start_within_sec:g} s: start it, in this ROS"
            " domain, or name its namespace"
        )
    stats: GetStats.Response = client.call("get_stats")
    if stats.memory_size:
        raise InvalidInputError(
            "memory_dir", "a node whose memory is empty",
            f"{stats.memory_size} entries in {stats.memory_dir}",
            "Start the node with a memory_dir that does not exist yet.",
        )  # fmt: skip
    return stats


def _parameters(settings: ExperimentSettings) -> Mapping[str, Any]:
    return {
        "query_mode": "frame",
        "query_target": DIRECTIONS[PUBLISHED][2].value,
        "scene_weight": settings.scene_weight,
        "k": settings.depth,
        "min_score": -1000.0,
        "query_diversity": 0.0,
        "with_thumbnails": False,
        "remember_mode": "never",
    }


@dataclass(frozen=True)
class _Memory:
    """Frames that the node remembers, with their ids, and why it refused others."""

    entry_ids: Mapping[str, int]
    refused: Mapping[str, int]


def _fill(
    client: RetrievalClient, frames: Sequence[Frame], stop: threading.Event, progress: Progress
) -> _Memory:
    ids: dict[str, int] = {}
    refused: dict[str, int] = {}
    for number, frame in enumerate(frames):
        _check(stop)
        progress("remembering", number, len(frames))
        answer = client.call(
            "remember", **_image_field(frame), instruction=frame.instruction,
            episode_id=frame.episode_id,
        )  # fmt: skip
        if answer.success:
            if answer.merged or answer.evicted_ids:
                raise InvalidInputError(
                    "parameters", "a node that keeps every pair",
                    "one that merged a pair or threw one away",
                    "Evaluate it without merge_scene_similarity, max_entries and max_memory_mb.",
                )  # fmt: skip
            ids[frame.query_id] = answer.entry_id
        elif answer.status.code == Status.INVALID_REQUEST:
            refused[answer.message] = refused.get(answer.message, 0) + 1
        else:
            raise RetrievalError(f"the node did not remember a frame: {answer.message}")
    progress("remembering", len(frames), len(frames))
    return _Memory(ids, refused)


def _image_field(frame: Frame) -> dict[str, Any]:
    kind, data = frame.recorded()
    message = deserialize_message(data, message_class(kind))
    return {"compressed_image" if kind == COMPRESSED_IMAGE else "image": message}


def _asking(recordings: Sequence[Recording], split: Split) -> list[Frame]:
    """Return all frames of the episodes that ask, also those that do not ask themselves."""
    asking = {frame.episode_id for frame in (*split.queries, *split.absent)}
    frames = (frame for recording in recordings for frame in recording.frames)
    return sorted(
        (frame for frame in frames if frame.episode_id in asking),
        key=lambda frame: (frame.bag, frame.received_ns),
    )


def _play(
    client: RetrievalClient,
    frames: Sequence[Frame],
    live: LiveSettings,
    kind: str,
    recorder: MatchRecorder,
    stop: threading.Event,
    progress: Progress,
) -> Pass:
    player = FramePlayer(client.node, kind, live.topics)
    player.wait_for_subscribers(stop, _HEARD_SEC)
    before = client.call("get_stats")
    report: Callable[[int, int], None] = lambda done, total: progress("playing", done, total)  # noqa: E731
    played = player.play(frames, live.rate, recorder, stop, report)
    _check(stop)
    # The last one is the newest, so unless it was lost it is answered.
    recorder.wait_for(played[-1], _LAST_ANSWER_SEC)
    after = client.call("get_stats")
    player.end_episode()
    counted = {name: getattr(after, name) - getattr(before, name) for name in _COUNTS}
    return Pass(tuple(played), dict(recorder.answers), counted)


def _answers(
    client: RetrievalClient,
    split: Split,
    memory: _Memory,
    played: Pass,
    settings: ExperimentSettings,
    stop: threading.Event,
) -> LiveAnswers:
    def ask(frame: Frame, direction: str) -> Hits:
        _check(stop)
        by_image, by_words, target = DIRECTIONS[direction]
        answer = client.call(
            "retrieve", **(_image_field(frame) if by_image else {}),
            instruction=frame.instruction if by_words else "", target=to_target_number(target),
            scene_weight=settings.scene_weight, k=settings.depth, min_score=ANY_SCORE,
        )  # fmt: skip
        if not answer.success:
            raise RetrievalError(f"the node did not answer {direction}: {answer.message}")
        return tuple((match.entry_id, match.score) for match in answer.result.matches)

    def embeddings(entry_id: int) -> Mapping[Modality, Embeddings]:
        answer = client.call("get_entry", entry_id=entry_id, with_embeddings=True)
        if not answer.success:
            raise RetrievalError(f"the node did not give entry {entry_id}: {answer.message}")
        return {
            Modality.SCENE: np.array(answer.scene_embedding, dtype=np.float32),
            Modality.INSTRUCTION: np.array(answer.instruction_embedding, dtype=np.float32),
        }

    gallery = [frame for frame in split.gallery if frame.query_id in memory.entry_ids]
    ids = [memory.entry_ids[frame.query_id] for frame in gallery]
    return LiveAnswers(gallery, ids, memory.refused, played, ask, embeddings, settings.depth)


def _notes(split: Split, played: Pass, recorder: MatchRecorder) -> list[str]:
    usable = played.usable()
    missing = sum(frame.query_id not in usable for frame in split.queries)
    notes = [
        f"{missing} of {len(split.queries)} frames that ask have no answer of the running node;"
        " they are in no mean where the image asks."
    ]
    if late := len(played.answers) - len(usable):
        notes.append(f"{late} frame(s) were answered under another instruction and do not count.")
    if recorder.inexact:
        notes.append(f"{recorder.inexact} answer(s) came from an approximate index.")
    return notes


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise RetrievalError("stopped before the end; nothing was written")
