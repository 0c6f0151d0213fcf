"""Evaluates retrieval on recorded bags, as fast as the machine allows and always the same way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vla_retrieval.encoders import Encoder
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import MapPoint
from vla_retrieval.experiments import filling, frame_store, scoring
from vla_retrieval.experiments.assembling import Outcome, assemble
from vla_retrieval.experiments.frame_store import FrameStore
from vla_retrieval.experiments.planning import Plan, check_sides, make_plan
from vla_retrieval.experiments.ranked import Rankings
from vla_retrieval.experiments.searching import Searcher
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.experiments.stages import Progress, StageSeconds
from vla_retrieval.projection import Head
from vla_retrieval.types import Modality

_PARTS = {
    "encoding": (filling.ENCODE_IMAGES, filling.ENCODE_INSTRUCTIONS),
    "searching": ("search",),
    "waiting for pictures and the memory": (filling.ENCODER_WAITS,),
}
"""Part of the work to the stages that it consists of."""

_ON_THE_MAP = 600  # entries; each is two points


def evaluate_bags(
    paths: Sequence[Path],
    encoder: Encoder,
    settings: ExperimentSettings,
    work: Path,
    progress: Progress = lambda doing, done, total: None,
    head: Head | None = None,
) -> Outcome:
    """Evaluate retrieval over bags.

    Args:
        paths: Of rosbag2 folders or files.
        encoder: Makes the embeddings.
        settings: What is wanted.
        work: Folder that keeps what was embedded and found; a second call goes on from there.
        progress: Told how far it is.
        head: Projects embeddings before they are compared, or None. The work folder keeps
            embeddings, so one serves evaluations with several heads and without.

    Raises:
        HeadMismatchError: If the head was made for another encoder.
        InvalidInputError: If a bag cannot be evaluated, or the work folder is of others.
        StorageError: If the work folder cannot be used.
    """
    started = time.perf_counter()
    plan = make_plan(paths, settings)
    check_sides(plan.split.gallery, plan.split)  # before hours of encoding
    read_sec = time.perf_counter() - started
    seconds = StageSeconds()
    source = frame_store.source_of(paths, settings.reading, settings.split.every_sec)
    source += "".join(f" {bag}" for bag in plan.bags)
    with frame_store.open_store(work, encoder, settings.similarity, source, head) as memory:
        store = filling.fill(memory, plan.frames, encoder, seconds, progress)
        outcome = _evaluate(store, plan, work, seconds, progress)
    wall = _wall(seconds, read_sec, time.perf_counter() - started)
    shown = {**outcome.evaluation.settings, "encoded by": frame_store.arithmetic_of(encoder)}
    return replace(outcome, evaluation=replace(outcome.evaluation, settings=shown, wall_sec=wall))


def _evaluate(
    store: FrameStore, plan: Plan, work: Path, seconds: StageSeconds, progress: Progress
) -> Outcome:
    settings = plan.settings
    searcher = Searcher(store, plan.split.gallery, settings, work)
    check_sides(searcher.gallery, plan.split)

    def answer(frames: Sequence[Frame], direction: str) -> tuple[Sequence[Frame], Rankings]:
        return searcher.rankings(frames, direction, seconds, progress)

    outcome = assemble(
        plan, searcher.gallery, answer, searcher.thumbnails, store.memory.compared,
        [*_refusals(store), *_of_head(store.memory.head)], sum(store.refused.values()),
    )  # fmt: skip
    searcher.forget_others()
    evaluation = replace(
        outcome.evaluation,
        times={name: scoring.summarise(calls) for name, calls in seconds.calls.items()},
        embedding_map=_map(searcher, settings.seed),
    )
    return replace(outcome, evaluation=evaluation)


def _wall(seconds: StageSeconds, read_sec: float, total_sec: float) -> dict[str, float]:
    """Return where the time went; what no stage accounts for is scoring and its pictures."""
    parts = {
        part: sum(sum(seconds.calls.get(stage, ())) for stage in stages)
        for part, stages in _PARTS.items()
    }
    parts["reading the bag"] = read_sec
    return {**parts, "scoring and the rest": max(0.0, total_sec - sum(parts.values()))}


def _refusals(store: FrameStore) -> list[str]:
    return [
        f"{count} image(s) could not be decoded: {reason}."
        for reason, count in sorted(store.refused.items())
    ]


def _of_head(head: Head | None) -> list[str]:
    """Return what has to be said about a head."""
    if head is None or not head.bits:
        return []
    return [
        "The head makes codes, and leaves embeddings as they are: an evaluation compares all of "
        "them, so that its rankings are those without the head. Training measures the codes."
    ]


def _map(searcher: Searcher, seed: int) -> tuple[MapPoint, ...]:
    """Return some entries in the plane of the two largest principal components of both halves."""
    count = len(searcher.gallery)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(count, min(count, _ON_THE_MAP), replace=False)).tolist()
    halves = [searcher.gallery_embeddings(rows, modality) for modality in Modality]
    # Each half about its own mean: the gap between modalities would be all there is to see.
    centred = np.concatenate([half - half.mean(axis=0) for half in halves]).astype(np.float64)
    # Ascending; the map needs no digits that squaring loses, and takes a fifth of an SVD's time.
    _, axes = np.linalg.eigh(centred.T @ centred)
    plane = centred @ axes[:, :-3:-1]
    labels = [searcher.gallery[row].instruction for row in rows]
    kinds = [modality.value for modality in Modality for _ in rows]
    return tuple(
        MapPoint(float(point[0]), float(point[1] if len(point) > 1 else 0.0), kind, label)
        for point, kind, label in zip(plane, kinds, labels * len(Modality), strict=True)
    )
