"""Whether two evaluations of the same frames rank alike, by whatever they were run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.evaluation.results import Agreement
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.scoring import Ranked

TOLERANCE = 1e-4
"""Of scores. A model's last bits depend on how many images it encodes at once: a node encodes one,
the offline evaluation a batch. That was seen to change a cosine by less than 1e-6 in fp32 on a CPU;
reduced precision changes it by more."""


def compare_rankings(
    live: Mapping[str, Ranked],
    offline: Mapping[str, Ranked],
    depth: int,
    tolerance: float = TOLERANCE,
) -> dict[str, Agreement]:
    """Compare rankings of the queries that both answered.

    Args:
        live: By direction; directions that it lacks are left out.
        offline: By direction, over the same gallery.
        depth: First entries of each query to compare.
        tolerance: Largest difference of scores at which the order of entries may differ.
    """
    return {
        name: _compare(one.run, offline[name].run, depth, tolerance)
        for name, one in live.items()
        if name in offline
    }


def _compare(live: Run, offline: Run, depth: int, tolerance: float) -> Agreement:
    row_of = {query_id: row for row, query_id in enumerate(offline.query_ids)}
    both = [(row, row_of[q]) for row, q in enumerate(live.query_ids) if q in row_of]
    same = near = 0
    largest = 0.0
    for mine, other in both:
        depth_here = min(depth, live.depth, offline.depth)
        ids, others = live.entry_ids[mine, :depth_here], offline.entry_ids[other, :depth_here]
        difference = _difference(live.scores[mine, :depth_here], offline.scores[other, :depth_here])
        largest = max(largest, difference)
        if np.array_equal(ids, others):
            same += 1
        elif difference <= tolerance and _are_ties(ids, offline, other, depth_here, tolerance):
            near += 1
    return Agreement(len(both), same, near, len(both) - same - near, largest, depth, tolerance)


def _difference(some: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    held = np.isfinite(some) & np.isfinite(others)
    return float(np.max(np.abs(some - others)[held], initial=0.0))


def _are_ties(
    ids: NDArray[np.int64], offline: Run, row: int, depth: int, tolerance: float
) -> bool:
    """Whether each entry has, offline too, the score of the rank where it is found live."""
    score_of = dict(
        zip(offline.entry_ids[row].tolist(), offline.scores[row].tolist(), strict=True)
    )
    at_rank = offline.scores[row, :depth].tolist()
    return all(
        entry_id in score_of and abs(score_of[entry_id] - score) <= tolerance
        for entry_id, score in zip(ids.tolist(), at_rank, strict=True)
        if entry_id >= 0
    )
