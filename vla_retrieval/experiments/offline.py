"""Evaluates retrieval on recorded bags, as fast as the machine allows and always the same way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vla_retrieval.encoders import Encoder
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.experiments import frame_store, scoring
from vla_retrieval.experiments.assembling import (
    Outcome,
    assemble,
    check_answerable,
    in_order,
    split_recordings,
)
from vla_retrieval.experiments.frame_store import Progress, StageSeconds
from vla_retrieval.experiments.searching import Searcher
from vla_retrieval.experiments.settings import ExperimentSettings

_PARTS = {
    "encoding": ("encode images (batch)", "encode instructions (batch)"),
    "searching": ("search",),
    "reading the bag": ("scan",),
    "reading and decoding pictures": ("decode",),
    "thumbnails": ("thumbnails (batch)",),
    "keeping": ("keep (batch)",),
}


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
    seconds = StageSeconds()
    started = time.perf_counter()
    recordings = read_recordings(paths, settings.reading)
    split = split_recordings(recordings, settings)
    seconds.add("scan", time.perf_counter() - started)
    needed = in_order(recordings, split.gallery, split.queries, split.absent)
    source = frame_store.fingerprint_of(paths)
    with frame_store.open_store(work, encoder, settings.similarity, source) as memory:
        store = frame_store.fill(memory, needed, encoder, seconds, progress)
        searcher = Searcher(
            store, split.gallery, settings.depth, settings.scene_weight, seconds, progress
        )
        check_answerable(searcher.gallery, split.queries)
        deciding = {"fingerprint": asdict(encoder.fingerprint)}
        outcome = assemble(searcher, recordings, split, settings, _model(encoder), deciding)
    times = {name: scoring.summarise(calls) for name, calls in seconds.calls.items()}
    wall = _wall(seconds, time.perf_counter() - started)
    return replace(outcome, evaluation=replace(outcome.evaluation, times=times, wall_sec=wall))


def _model(encoder: Encoder) -> dict[str, str]:
    return {
        "model": encoder.fingerprint.model,
        "weights": encoder.fingerprint.weights,
        "head": encoder.fingerprint.head or "none",
    }


def _wall(seconds: StageSeconds, total: float) -> dict[str, float]:
    """Return where the time went; what no stage accounts for is scoring and pictures."""
    parts = {
        part: sum(sum(seconds.calls.get(stage, [])) for stage in stages)
        for part, stages in _PARTS.items()
    }
    return {**parts, "scoring and the rest": max(0.0, total - sum(parts.values()))}
