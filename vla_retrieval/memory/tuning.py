"""How many rows codes have to propose, measured on queries of the modality that will ask.

Settings that find everything for scenes asked by scenes lose many points for scenes asked by
instructions: the two modalities lie in different cones, and codes tell less apart what is about
equally far from a query. The memory holds both halves of every pair, so each direction is tuned
with embeddings of its own kind.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.columns import Mask, Rows
from vla_retrieval.memory.halves import Ready
from vla_retrieval.memory.hashing import HashCodes
from vla_retrieval.memory.index import Direction, Index
from vla_retrieval.projection import Codes
from vla_retrieval.types import Embeddings, Modality, Similarity

_log = logging.getLogger(__name__)

_QUERIES = 384
_DRAWN = 2  # times as many rows, from which the queries are chosen
_SHARE_HELD_OUT = 8  # one row in so many, at most, is not fitted to
_K = 10
_NEAR_IN_TIME = 10
"""Entries before and after a query's own that it must do without: a robot that stands still stores
nearly the same pair over and over, and what it sees next may be like none of them."""
DEPTHS = (*(n for i in range(5, 13) for n in (2**i, 2**i + 2 ** (i - 1))), 8192)
"""Rows to propose, of which the fewest that do are taken: 32, 48, 64, 96 and so on."""

_SURE = 2.33
"""Standard errors: 99 of 100 such measurements promise no more than is kept, on queries like these.
What comes new finds a little less than an entry that is stored: at 100 000 entries, 0.003 of the
ten best instructions for an image, which a promise with 1.64 did not cover."""

_ENOUGH = 1e-6  # scores of copies differ by the rounding of float32

_COMPARED_AT_ONCE = 4096
"""Rows: 25 MB of scores."""

Group = tuple[Direction, ...]
"""What one query asks for: one half, or both."""


def _pair(of_scenes: Modality, of_instructions: Modality) -> Group:
    """Return the directions of a query for both halves, by what asks for each."""
    return (
        Direction(of_scenes, Modality.SCENE, of_instructions),
        Direction(of_instructions, Modality.INSTRUCTION, of_scenes),
    )


GROUPS: tuple[Group, ...] = (
    *((Direction(source, target),) for source in Modality for target in Modality),
    _pair(Modality.SCENE, Modality.INSTRUCTION),
    *(_pair(modality, modality) for modality in Modality),  # the one stands in for the other
)


@dataclass(frozen=True)
class _Trial:
    """One query, and what it should find.

    Attributes:
        probes: The query.
        rows: The entry that it was taken from and its neighbours in time, which do not count.
        least: Score of the k-th best of the others.
    """

    probes: tuple[Ready, ...]
    rows: slice
    least: float


def held_out(rows: int) -> tuple[Rows, Rows]:
    """Return rows to draw queries from, and those that codes must not be fitted to, ascending.

    Codes are finest about what they are fitted to. A query that helped to fit them finds more than
    one that comes new, so it would promise too much.

    Args:
        rows: How many there are.
    """
    most = rows // _SHARE_HELD_OUT
    drawn = np.random.default_rng(rows).choice(rows, min(_DRAWN * _QUERIES, most), replace=False)
    beside = min(_NEAR_IN_TIME, max(0, most // max(1, len(drawn)) - 1) // 2)
    near = drawn[:, None] + np.arange(-beside, beside + 1)
    return np.sort(drawn), np.unique(np.clip(near, 0, rows - 1))


def tune(index: Index, recall_target: float, drawn: Rows) -> None:
    """Set an index's depths to the least that reach a recall, and its recalls to theirs.

    Recall is the share of the ten best that is found, ties counted as found. It has to
    reach the target by 2.33 standard errors of the mean over the queries. Where nothing does, the
    deepest setting is taken; a warning says when that is below the target.

    The queries are stored embeddings. What was stored just before and after one does not count:
    a robot that stands still stores nearly the same pair over and over.

    Args:
        index: With codes; nobody else uses it yet.
        recall_target: In [0, 1].
        drawn: Rows to take queries from, which the codes were not fitted to (``held_out``).
    """
    rng = np.random.default_rng(0)
    rows = _queries(index, drawn, rng)
    vectors = {m: index.halves[m].vectors.take(rows) for m in Modality}
    for group, least in zip(GROUPS, _kth_best(index, vectors, rows), strict=True):
        trials = _trials(index, group, rows, vectors, least)
        depth, recall = _least(index, trials, recall_target)
        for direction in group:
            index.depths[direction] = depth
            index.recalls[direction] = recall
            if recall < recall_target:
                _log.warning(
                    "%s to %s%s finds %.4f of the ten best at its deepest, less than the target"
                    " %.4f: use index exact, or a lower target",
                    direction.source.value, direction.target.value,
                    " in a pair" if direction.beside else "", recall, recall_target,
                )  # fmt: skip


def _queries(index: Index, drawn: Rows, rng: np.random.Generator) -> Rows:
    """Return rows to ask with, ascending."""
    there = drawn[drawn < index.columns.rows]
    rows = there[index.columns.alive[there]]
    return np.sort(rng.choice(rows, min(_QUERIES, len(rows)), replace=False))


def _trials(
    index: Index,
    group: Group,
    rows: Rows,
    vectors: dict[Modality, Embeddings],
    least: NDArray[np.float32],
) -> list[_Trial]:
    weight = 1.0 / len(group)
    hashes = {m: _hashes(index, m, rows) for m in Modality}
    return [
        _Trial(
            tuple(
                Ready(d.target, vectors[d.source][i], weight, d.source, hashes[d.source][i])
                for d in group
            ),
            _around(int(row)), float(least[i]),
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip


def _kth_best(
    index: Index, vectors: dict[Modality, Embeddings], rows: Rows
) -> list[NDArray[np.float32]]:
    """Return each query's k-th best score over all entries but those near it, for each group.

    Block by block, so that all groups share the comparisons.

    Args:
        index: As for ``tune``.
        vectors: Both halves of the entries to ask with, shape ``(n, width)``.
        rows: Theirs, shape ``(n,)``.
    """
    best = [np.full((len(rows), _K), -np.inf, dtype=np.float32) for _ in GROUPS]
    for start in range(0, index.columns.rows, _COMPARED_AT_ONCE):
        end = min(start + _COMPARED_AT_ONCE, index.columns.rows)
        here = np.arange(start, end, dtype=np.int64)
        left_out = _left_out(rows, start, end) | ~index.columns.alive[here]
        scores = {}
        for target in Modality:
            block = index.halves[target].vectors.take(here)
            for source in Modality:
                scores[source, target] = _matrix(index.similarity, vectors[source], block)
                scores[source, target][left_out] = -np.inf
        for place, group in enumerate(GROUPS):
            weight = np.float32(1.0 / len(group))
            together = sum(weight * scores[d.source, d.target] for d in group)
            merged = np.concatenate([best[place], together], axis=1)
            best[place] = np.partition(merged, -_K, axis=1)[:, -_K:]
    return [of_group.min(axis=1) for of_group in best]


def _left_out(rows: Rows, start: int, end: int) -> Mask:
    """Return which entries of a block each query must do without, shape ``(n, end - start)``."""
    without = np.zeros((len(rows), end - start), dtype=bool)
    for own, row in enumerate(rows):
        near = _around(int(row))
        without[own, max(0, near.start - start) : max(0, near.stop - start)] = True
    return without


def _around(row: int) -> slice:
    """Return a row and its neighbours in time."""
    return slice(max(0, row - _NEAR_IN_TIME), row + _NEAR_IN_TIME + 1)


def _matrix(
    similarity: Similarity, queries: Embeddings, vectors: Embeddings
) -> NDArray[np.float32]:
    dots = queries @ vectors.T
    if similarity is not Similarity.NEGATIVE_L2:
        return dots
    squares = (
        np.square(queries).sum(axis=1)[:, None] + np.square(vectors).sum(axis=1)[None] - 2 * dots
    )
    found: NDArray[np.float32] = -np.sqrt(np.maximum(squares, 0))
    return found


def _hashes(index: Index, modality: Modality, rows: Rows) -> Sequence[Codes | None]:
    """Return the binary code of each row, shape ``(1, bits / 8)``, or None where there are none."""
    codes = index.halves[modality].codes
    if not isinstance(codes, HashCodes):
        return [None] * len(rows)
    return list(codes.take(rows)[:, np.newaxis])


def _least(index: Index, trials: Sequence[_Trial], recall_target: float) -> tuple[int, float]:
    """Return the least depth whose recall is good enough, else the deepest, and its recall."""
    best, recall = DEPTHS[-1], 0.0
    low, high = 0, len(DEPTHS) - 1
    while low <= high:  # recall grows with the depth
        middle = (low + high) // 2
        found, error = _measure(index, trials, DEPTHS[middle])
        enough = found - _SURE * error >= recall_target
        if enough or middle == len(DEPTHS) - 1:
            best, recall = DEPTHS[middle], found
        low, high = (low, middle - 1) if enough else (middle + 1, high)
    return best, recall


def _measure(index: Index, trials: Sequence[_Trial], depth: int) -> tuple[float, float]:
    """Return the mean recall and its standard error."""
    recalls = []
    for trial in trials:
        scores = index.try_out(trial.probes, _K, depth, trial.rows)
        best = np.sort(scores)[::-1][:_K]
        slack = _ENOUGH * max(1.0, abs(trial.least))
        recalls.append(float((best >= trial.least - slack).mean()) if len(best) else 0.0)
    return float(np.mean(recalls)), float(np.std(recalls)) / max(1, len(recalls)) ** 0.5
