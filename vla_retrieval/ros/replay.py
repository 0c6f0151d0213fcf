"""Evaluates a running node: fills its memory, plays frames in real time, scores its answers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import WallTime
from vla_retrieval.experiments.agreement import compare_rankings
from vla_retrieval.experiments.concluding import (
    Facts,
    Outcome,
    conclude,
    embedding_map,
    map_rows,
)
from vla_retrieval.experiments.frame_store import Progress, StageSeconds
from vla_retrieval.experiments.offline import evaluate_bags
from vla_retrieval.experiments.preparing import Prepared, check_parts, prepare, refusals
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.replay_answers import PUBLISHED, Recorder
from vla_retrieval.ros.replay_node import (
    Gallery,
    NodeParameters,
    checked,
    embeddings_of,
    fill_memory,
)
from vla_retrieval.ros.replay_player import FramePlayer
from vla_retrieval.ros.replay_results import COUNTERS, Pass, answers_of, live_result
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Similarity

_THUMBNAIL_PX = 120
_LEAST_SCORE = -1000.0  # the least that the node's parameter takes


@dataclass(frozen=True)
class ReplayOptions:
    """How a replay goes.

    Attributes:
        namespace: Of the node.
        rate: Speed against the bags' own time, above 0.
        longest_gap_sec: Longest wait between two frames at speed 1.
        follow_up: Whether each answered frame is asked about in the other directions too.
        start_within_sec: How long the node may take to be there.
        answer_within_sec: How long the answer to the last frame may take.

    Raises:
        InvalidInputError: If a number is out of its range.
    """

    namespace: str = ""
    rate: float = 1.0
    longest_gap_sec: float = 1.0
    follow_up: bool = True
    start_within_sec: float = 120.0
    answer_within_sec: float = 10.0

    def __post_init__(self) -> None:
        """Check each number against its range."""
        for name in ("rate", "longest_gap_sec", "start_within_sec", "answer_within_sec"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInputError(name, "a number above 0", str(value))


@dataclass(frozen=True)
class Offline:
    """The offline evaluation to compare a replay with.

    Attributes:
        encoder: Of the same model and weights as the node's.
        work: Folder for its work.
    """

    encoder: Encoder
    work: Path


def replay_bags(
    paths: Sequence[Path],
    settings: ExperimentSettings,
    options: ReplayOptions,
    offline: Offline | None,
    progress: Progress,
    stop: threading.Event,
) -> Outcome:
    """Evaluate a running node with bags.

    Args:
        paths: Of rosbag2 folders or files.
        settings: What is wanted; the similarity is the node's own, whatever they say.
        options: How the replay goes.
        offline: What to compare the rankings with, or None.
        progress: Told how far it is.
        stop: Ends it early.

    Raises:
        InvalidInputError: If a bag cannot be evaluated, the node's memory is not empty, it refuses
            a parameter, or the encoder is not of its model.
        RetrievalError: If the node refuses a request, or answers no frame, or it was stopped.
        TimeoutError: If the node is not there or does not answer.
    """
    started = time.perf_counter()
    seconds = StageSeconds()
    with seconds.of("read bags"):
        prepared = prepare(paths, settings)
        check_parts(prepared.split.gallery, prepared.split.queries)
    with RetrievalClient(options.namespace, "replay_evaluation") as client:
        stats = _meet(client, options.start_within_sec)
        settings = replace(settings, similarity=Similarity(stats.similarity))
        if offline is not None:
            _check_same_model(offline.encoder, stats.fingerprint)
        with seconds.of("fill the node's memory"):
            gallery = fill_memory(client, _of(prepared, prepared.split.gallery), progress)
        with seconds.of("play and ask"):
            found = _play(client, prepared, settings, options, progress, stop)
            answers = answers_of(client, found, gallery, prepared.split, settings, progress)
        rows = map_rows(len(gallery.frames), settings.seed)
        halves = embeddings_of(client, [gallery.entry_id(row) for row in rows])
    facts = _facts(prepared, settings, options, gallery, stats, found)
    outcome = conclude(answers, gallery.frames, settings, facts, _thumbnail)
    live = live_result(found)
    if offline is not None:
        with seconds.of("evaluate offline to compare"):
            other = evaluate_bags(paths, offline.encoder, settings, offline.work, progress)
        compared = compare_rankings(outcome.ranked, other.ranked, max(settings.ks))
        live = replace(live, agreement=compared)
    total = time.perf_counter() - started
    parts = {name: sum(calls) for name, calls in seconds.calls.items()}
    parts["all else"] = max(0.0, total - sum(parts.values()))
    evaluation = replace(
        outcome.evaluation, live=live, wall=WallTime(total, parts),
        embedding_map=embedding_map(halves, [gallery.frames[row].instruction for row in rows]),
    )  # fmt: skip
    return replace(outcome, evaluation=evaluation)


def _meet(client: RetrievalClient, within_sec: float) -> Any:
    if not client.wait_until_active(lambda: True, within_sec):
        raise TimeoutError(
            f"no active node answers on {client.node.get_namespace().rstrip('/')}/retrieval within "
            f"{within_sec:g} s. Start one, or name its namespace and ROS domain."
        )
    return checked(client.call("get_stats"))


def _check_same_model(encoder: Encoder, fingerprint: str) -> None:
    if str(encoder.fingerprint) != fingerprint:
        raise InvalidInputError(
            "model", f"the node's, {fingerprint}", str(encoder.fingerprint),
            "Give the node's model, or do without the offline evaluation (--no-offline).",
        )  # fmt: skip


def _of(prepared: Prepared, *parts: Sequence[Frame]) -> list[Frame]:
    """Return the frames of some parts in the order of the bags."""
    wanted = {frame.query_id for part in parts for frame in part}
    return [frame for frame in prepared.in_order() if frame.query_id in wanted]


def _play(
    client: RetrievalClient,
    prepared: Prepared,
    settings: ExperimentSettings,
    options: ReplayOptions,
    progress: Progress,
    stop: threading.Event,
) -> Pass:
    parameters = NodeParameters(client)
    transport = parameters.get(["image_transport"])["image_transport"]
    player = FramePlayer(client.node, compressed=transport == "compressed")
    frames = _of(prepared, prepared.split.queries, prepared.split.absent)
    with parameters.changed(_wanted(settings)):
        recorder = Recorder(client, settings.depth, follow_up=options.follow_up)
        try:
            player.wait_for_node(recorder, options.start_within_sec)
            before = _counters(client)
            refused = player.play(
                frames, recorder, options.rate, options.longest_gap_sec, progress, stop
            )
            if stop.is_set():
                raise RetrievalError("stopped before all frames were played")
            recorder.wait_for_last(options.answer_within_sec)
            after = _counters(client)
        finally:
            recorder.close()
    counted = {name: after[name] - before[name] for name in COUNTERS}
    found = Pass(recorder.played, recorder.arrivals, recorder.moved_on, refused, counted)
    if not recorder.arrivals:
        raise RetrievalError(
            f"none of {len(found.played)} frames was answered; the node counted {counted}. "
            "Look at its log and at /diagnostics."
        )
    return found


def _wanted(settings: ExperimentSettings) -> Mapping[str, Any]:
    """Return the live parameters of a replay."""
    return {
        "query_mode": "frame", "query_target": PUBLISHED, "scene_weight": settings.scene_weight,
        "k": settings.depth, "min_score": _LEAST_SCORE, "query_diversity": 0.0,
        "with_thumbnails": False, "remember_mode": "never",
    }  # fmt: skip


def _counters(client: RetrievalClient) -> dict[str, int]:
    stats = checked(client.call("get_stats"))
    return {name: int(getattr(stats, name)) for name in COUNTERS}


def _thumbnail(frame: Frame) -> bytes:
    try:
        return make_thumbnail(frame.image(), _THUMBNAIL_PX)
    except InvalidInputError:
        return b""


def _facts(
    prepared: Prepared,
    settings: ExperimentSettings,
    options: ReplayOptions,
    gallery: Gallery,
    stats: Any,
    found: Pass,
) -> Facts:
    notes = [*prepared.notes(), *refusals(gallery.refused), *refusals(found.refused)]
    unanswered = len(found.played) - len(found.arrivals)
    if unanswered:
        notes.append(f"{unanswered} frame(s) that were played have no answer and are not scored.")
    if approximate := sum(not one.exact for one in found.played):
        notes.append(f"{approximate} answer(s) came from an approximate index.")
    return Facts(
        deciding={**settings.deciding(), "fingerprint": stats.fingerprint, "live": True},
        settings={
            "node": stats.model + f" on {stats.device} ({stats.precision}), index {stats.index_kind}",
            "speed": f"{options.rate:g} times the bags'",
            "longest gap between frames": f"{options.longest_gap_sec:g} s",
            **settings.shown(),
        },
        counts=prepared.counts(sum(gallery.refused.values()) + sum(found.refused.values())),
        notes=notes,
        times={},
    )


