"""Evaluates retrieval on recorded bags, as fast as the machine allows and always the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vla_retrieval.encoders import Encoder
from vla_retrieval.evaluation.results import WallTime
from vla_retrieval.experiments import frame_store, scoring
from vla_retrieval.experiments.concluding import (
    Answers,
    Facts,
    Outcome,
    conclude,
    embedding_map,
    map_rows,
)
from vla_retrieval.experiments.frame_store import (
    ENCODING,
    SEARCHING,
    FrameStore,
    Progress,
    StageSeconds,
)
from vla_retrieval.experiments.preparing import Prepared, check_parts, prepare, refusals
from vla_retrieval.experiments.searching import DIRECTIONS, Searcher
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.types import Modality

__all__ = ["Outcome", "evaluate_bags"]


def evaluate_bags(
    paths: Sequence[Path],
    encoder: Encoder,
    settings: ExperimentSettings,
    work: Path,
    progress: Progress = lambda doing, done, total: None,
) -> Outcome:
    """Evaluate retrieval over bags.

    Args:
        paths: Of rosbag2 folders or files.
        encoder: Makes the embeddings.
        settings: What is wanted.
        work: Folder that keeps what was embedded; a second call goes on from there.
        progress: Told how far it is.

    Raises:
        InvalidInputError: If a bag cannot be evaluated, or the work folder is of others.
        StorageError: If the work folder cannot be used.
    """
    started = time.perf_counter()
    seconds = StageSeconds()
    with seconds.of("read bags"):
        prepared = prepare(paths, settings)
        source = frame_store.fingerprint_of(paths)
    with frame_store.open_store(work, encoder, settings.similarity, source) as memory:
        store = frame_store.fill(memory, prepared.in_order(), encoder, seconds, progress)
        outcome = _evaluate(store, prepared, encoder, settings, seconds, progress)
    wall = _wall_time(seconds, time.perf_counter() - started)
    return replace(outcome, evaluation=replace(outcome.evaluation, wall=wall))


def _evaluate(
    store: FrameStore,
    prepared: Prepared,
    encoder: Encoder,
    settings: ExperimentSettings,
    seconds: StageSeconds,
    progress: Progress,
) -> Outcome:
    split = prepared.split
    searcher = Searcher(store, split.gallery, settings.depth, settings.scene_weight)
    check_parts(searcher.gallery, split.queries)
    answers: dict[str, Answers] = {}
    for direction in DIRECTIONS:
        asked, absent = (searcher.asked(f, direction) for f in (split.queries, split.absent))
        run, _ = searcher.run(asked, direction, seconds, progress)
        _, absent_top = searcher.run(absent, direction, seconds, progress)
        answers[direction] = Answers(asked.frames, run, absent.frames, absent_top)
    with seconds.of("score"):
        facts = Facts(
            deciding={**settings.deciding(), "fingerprint": asdict(encoder.fingerprint)},
            settings={**_model(encoder), **settings.shown()},
            counts=prepared.counts(sum(store.refused.values())),
            notes=[*prepared.notes(), *refusals(store.refused)],
            times={name: scoring.summarise(calls) for name, calls in seconds.calls.items()},
        )
        outcome = conclude(answers, searcher.gallery, settings, facts, searcher.thumbnail)
        rows = map_rows(len(searcher.gallery), settings.seed)
        halves = [searcher.gallery_embeddings(rows, modality) for modality in Modality]
        points = embedding_map(halves, [searcher.gallery[row].instruction for row in rows])
    return replace(outcome, evaluation=replace(outcome.evaluation, embedding_map=points))


def _wall_time(seconds: StageSeconds, total_sec: float) -> WallTime:
    parts: dict[str, float] = {name: sum(calls) for name, calls in seconds.calls.items()}
    parts["all else"] = max(0.0, total_sec - sum(parts.values()))
    return WallTime(total_sec, parts, tuple(n for n in parts if n in (*ENCODING, SEARCHING)))


def _model(encoder: Encoder) -> Mapping[str, str]:
    return {
        "model": encoder.fingerprint.model,
        "weights": encoder.fingerprint.weights,
        "head": encoder.fingerprint.head or "none",
    }
