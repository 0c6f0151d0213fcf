"""Whether two runs over the same memory agree on the queries that both answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.evaluation.report.writing import JSON
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.experiments.folder import read_trec
from vla_retrieval.experiments.searching import DIRECTIONS

# Batches of another size change an embedding's last bits, and messages carry scores in 32 bits.
TOLERANCE = 1e-4


# What decides which frames make the memory, by its name in counts and settings.
_SAME_MEMORY = (
    "model", "images", "frames", "gallery frames", "episodes end at", "stamps",
    "asking share of episodes", "absent share of single episodes", "one frame per",
    "seed of the split",
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How far two runs agree.

    Attributes:
        both: Queries that both answered.
        identical: Of these, how many have the same entries in the same order.
        up_to_ties: How many have, where entries may change places whose scores differ by no more
            than the tolerance; the identical ones are among them.
        score_difference: Largest difference of scores at one rank; 0 where there is none.
    """

    both: int
    identical: int
    up_to_ties: int
    score_difference: float


def agree(one: Run, other: Run, tolerance: float = TOLERANCE) -> Agreement:
    """Compare rankings, as deep as the shallower of the two.

    Args:
        one: A run.
        other: Another, over the same gallery.
        tolerance: Scores no further apart count as equal.
    """
    own = set(one.query_ids)
    both = tuple(query_id for query_id in other.query_ids if query_id in own)
    depth = min(one.depth, other.depth)
    a, b = one.aligned(both), other.aligned(both)
    same = (a.entry_ids[:, :depth] == b.entry_ids[:, :depth]).all(axis=1)
    apart = np.abs(a.scores[:, :depth] - b.scores[:, :depth])
    lengths = a.lengths.clip(max=depth) == b.lengths.clip(max=depth)
    close = lengths & ~(apart > tolerance).any(axis=1)
    tied = np.array([close[row] and _fits(a, b, row, depth, tolerance) for row in range(len(both))])
    return Agreement(
        len(both), int(np.count_nonzero(same & lengths)), int(np.count_nonzero(tied)),
        float(np.nanmax(apart, initial=0.0)),
    )  # fmt: skip


def agree_with_folder(outcome: Outcome, folder: Path) -> Mapping[str, Agreement]:
    """Compare an evaluation with one that was written, by direction.

    Raises:
        InvalidInputError: If the folder is none, or of another memory.
    """
    written = read_json(folder / JSON)
    for name in _SAME_MEMORY:
        ours, theirs = ({**e.counts, **e.settings}.get(name) for e in (outcome.evaluation, written))
        if ours != theirs:
            raise InvalidInputError(
                "against", f"an evaluation with the same memory ({name}: {ours})", str(theirs),
                "Evaluate the same bags with the same split and model.",
            )  # fmt: skip
    return {
        direction: agree(outcome.ranked[direction].run, read_trec(folder, direction)[1])
        for direction in DIRECTIONS
    }


def _fits(a: Run, b: Run, row: int, depth: int, tolerance: float) -> bool:
    """Whether each entry of one is in the other, or at the tail as good as what is there."""
    scores = dict(zip(b.entry_ids[row].tolist(), b.scores[row].tolist(), strict=True))
    last = float(np.nanmin(b.scores[row, :depth], initial=np.inf))
    pairs = zip(a.entry_ids[row, :depth].tolist(), a.scores[row, :depth].tolist(), strict=True)
    return all(abs(scores.get(entry, last) - score) <= tolerance for entry, score in pairs
               if entry >= 0)  # fmt: skip
