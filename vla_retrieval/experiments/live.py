"""What a running node answered, scored as answers from bags are, and compared with those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import Agreement, LiveResult
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.assembling import Outcome, assemble
from vla_retrieval.experiments.planning import Plan
from vla_retrieval.experiments.ranked import HeldRankings, Rankings
from vla_retrieval.experiments.searching import DIRECTIONS, asking
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Fingerprint

TOLERANCE = 1e-5
"""Scores closer than this count as tied when two rankings are compared: a node encodes one image at
a time and sends scores as float32, bags are encoded in batches and scored in float64."""

_THUMBNAIL_PX = 120

Hit = tuple[int, float]
"""Position in the gallery, and score."""


@dataclass
class Heard:
    """What a running node said.

    Attributes:
        hits: Direction -> query id -> the answer, best first.
        live: Latencies, ages and drops.
        stages: Stage -> seconds of each published answer, as the node says.
        notes: Sentences about how it was asked.
    """

    live: LiveResult
    hits: dict[str, dict[str, list[Hit]]] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def score_heard(
    plan: Plan, gallery: Sequence[Frame], heard: Heard, fingerprint: Fingerprint
) -> Outcome:
    """Score what a node answered.

    Args:
        plan: Which frames asked.
        gallery: What the node's memory holds, in the order of positions.
        heard: Its answers.
        fingerprint: Of the node's encoder.
    """

    def answer(frames: Sequence[Frame], direction: str) -> tuple[Sequence[Frame], Rankings]:
        said = heard.hits.get(direction, {})
        answered = [f for f in asking(frames, direction) if f.query_id in said]
        run = _run([said[f.query_id] for f in answered], answered, plan.settings.depth)
        return answered, HeldRankings(run)

    outcome = assemble(plan, gallery, answer, _pictures, fingerprint, heard.notes, 0)
    times = {f"node: {name}": scoring.summarise(calls) for name, calls in heard.stages.items()}
    evaluation = replace(outcome.evaluation, times=times, live=heard.live)
    return replace(outcome, evaluation=evaluation)


def _run(answers: Sequence[Sequence[Hit]], frames: Sequence[Frame], depth: int) -> Run:
    rows = [row for row, hits in enumerate(answers) for _ in hits]
    flat = [hit for hits in answers for hit in hits]
    return Run.from_hits(
        [frame.query_id for frame in frames], np.array(rows, np.int64),
        np.array([entry for entry, _ in flat], np.int64),
        np.array([score for _, score in flat], np.float64), depth,
    )  # fmt: skip


def _pictures(frames: Sequence[Frame]) -> list[bytes]:
    return [make_thumbnail(frame.image(), _THUMBNAIL_PX) for frame in frames]


def compare(live: Outcome, offline: Outcome) -> Mapping[str, Agreement]:
    """Compare the rankings of the queries that both answered, by direction.

    Scores closer than ``TOLERANCE`` count as tied.
    """
    return {
        name: _agreement(live.ranked[name].run, offline.ranked[name].run) for name in DIRECTIONS
    }


def _agreement(one: Run, other: Run) -> Agreement:
    rows = {query_id: row for row, query_id in enumerate(other.query_ids)}
    both = [(n, rows[q]) for n, q in enumerate(one.query_ids) if q in rows]
    same, largest = 0, 0.0
    for n, m in both:
        alike, difference = _alike(
            one.entry_ids[n], one.scores[n], other.entry_ids[m], other.scores[m]
        )
        same += alike
        largest = max(largest, difference)
    return Agreement(len(one.query_ids), len(other.query_ids), len(both), same, largest, TOLERANCE)


def _alike(
    ids: np.ndarray, scores: np.ndarray, other_ids: np.ndarray, other_scores: np.ndarray
) -> tuple[bool, float]:
    """Return whether two rankings are the same but for ties, and the largest difference."""
    kept, other_kept = ids >= 0, other_ids >= 0
    if np.count_nonzero(kept) != np.count_nonzero(other_kept):
        return False, float("nan")
    ids, scores = ids[kept], scores[kept]
    other_ids, other_scores = other_ids[other_kept], other_scores[other_kept]
    if not len(ids):
        return True, 0.0
    difference = float(np.abs(scores - other_scores).max())
    score_of = dict(zip(other_ids.tolist(), other_scores.tolist(), strict=True))
    # What only one of them has was cut off at the end, where the last scores are tied.
    theirs = np.array([score_of.get(i, other_scores[-1]) for i in ids.tolist()])
    return bool((np.abs(theirs - other_scores) <= TOLERANCE).all()), difference
