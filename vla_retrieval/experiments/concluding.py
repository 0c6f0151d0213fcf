"""From answers to a finished evaluation: one way, whoever gave the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import (
    DirectionResult,
    Evaluation,
    KnownResult,
    MapPoint,
    StageSummary,
)
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.scoring import Picture, Ranked
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.types import Embeddings, Modality

_RELEVANT = {
    "instruction": "Relevant is an entry with the query's instruction, however it is written.",
    "episode": "Relevant is an entry of the query's episode.",
    "labels": "Relevant is an entry whose instruction has the task label of the query's.",
    "qrels": "Relevant is what the qrels file says.",
}
_ON_THE_MAP = 600  # entries; each is two points


@dataclass(frozen=True)
class Answers:
    """What was answered in one direction.

    Attributes:
        frames: One per query that was answered.
        run: Their rankings, of gallery positions.
        absent: Queries about what is not there that were answered.
        absent_top: Their best scores, NaN where nothing was retrieved.
    """

    frames: tuple[Frame, ...]
    run: Run
    absent: tuple[Frame, ...]
    absent_top: NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation leaves.

    Attributes:
        evaluation: The numbers.
        ranked: The rankings behind them, by direction.
    """

    evaluation: Evaluation
    ranked: Mapping[str, Ranked]


@dataclass(frozen=True)
class Facts:
    """What is known besides the answers.

    Attributes:
        deciding: What decides the numbers beside the rankings; it goes into the hash.
        settings: Name to value, to be shown.
        counts: Name to number.
        notes: Sentences to be printed with the numbers.
        times: Stage name to its times.
    """

    deciding: Mapping[str, Any]
    settings: Mapping[str, str]
    counts: Mapping[str, int]
    notes: Sequence[str]
    times: Mapping[str, StageSummary]


def conclude(
    answers: Mapping[str, Answers],
    gallery: Sequence[Frame],
    settings: ExperimentSettings,
    facts: Facts,
    picture: Picture,
) -> Outcome:
    """Score answers.

    Args:
        answers: By direction.
        gallery: Frames that make the memory, by position.
        settings: What is wanted.
        facts: What else is to be said.
        picture: Returns a frame's small picture.

    Raises:
        InvalidInputError: If the file with labels or qrels cannot be read.
    """
    ranked: dict[str, Ranked] = {}
    results: dict[str, DirectionResult] = {}
    known: dict[str, KnownResult] = {}
    notes = [*facts.notes, _RELEVANT[settings.relevance]]
    for direction, one in answers.items():
        qrels, said = scoring.judge(one.frames, gallery, settings)
        ranked[direction] = Ranked(one.frames, one.run, qrels)
        results[direction] = scoring.score(ranked[direction], gallery, settings, picture)
        notes += [note for note in said if note not in notes]
        if one.absent:
            top = one.run.scores[:, 0] if len(one.frames) else np.zeros(0)
            found = scoring.try_known((one.frames, top), (one.absent, one.absent_top), settings)
            if isinstance(found, KnownResult):
                known[direction] = found
            else:
                notes.append(f"Known or not, {direction}: {found}")
    evaluation = Evaluation(
        hash=scoring.digest(dict(facts.deciding), gallery, ranked),
        settings=facts.settings, counts=facts.counts, notes=tuple(notes), directions=results,
        known=known, times=facts.times,
    )  # fmt: skip
    return Outcome(evaluation, ranked)


def map_rows(count: int, seed: int) -> list[int]:
    """Return which of so many gallery positions are drawn on the map."""
    rng = np.random.default_rng(seed)
    rows: list[int] = np.sort(rng.choice(count, min(count, _ON_THE_MAP), replace=False)).tolist()
    return rows


def embedding_map(halves: Sequence[Embeddings], labels: Sequence[str]) -> tuple[MapPoint, ...]:
    """Return entries in the plane of the two largest principal components of both halves.

    Args:
        halves: Shape ``(n, dim)``, one per ``Modality``, in its order.
        labels: The entries' instructions, ``n`` of them.
    """
    # Each half about its own mean: the gap between modalities would be all there is to see.
    centred = np.concatenate([half - half.mean(axis=0) for half in halves]).astype(np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    kinds = [modality.value for modality in Modality for _ in labels]
    return tuple(
        MapPoint(float(point[0]), float(point[1] if len(point) > 1 else 0.0), kind, label)
        for point, kind, label in zip(plane, kinds, [*labels] * len(Modality), strict=True)
    )
