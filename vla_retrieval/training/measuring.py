"""How well a head retrieves: each pair asks the others of its side, without its own episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.evaluation.bootstrap import estimates
from vla_retrieval.evaluation.metrics import evaluate
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.results import Estimate
from vla_retrieval.evaluation.run import Run
from vla_retrieval.projection import Head
from vla_retrieval.training.data import Pairs, codes_of
from vla_retrieval.types import Modality

DIRECTIONS: Mapping[str, tuple[Modality, Modality]] = {
    "instruction to scenes": (Modality.INSTRUCTION, Modality.SCENE),
    "scene to instructions": (Modality.SCENE, Modality.INSTRUCTION),
    "scene to scenes": (Modality.SCENE, Modality.SCENE),
}
"""Name to what asks and what is found. Between instructions words decide, and not a head."""

METRICS = ("ndcg@10", "hit@1", "recall@10")
SHORTLIST = 100
"""Nearest codes whose embeddings are compared; of a side of less than a thousand pairs a tenth."""
MAX_QUERIES = 1000
_DEPTH = 10
_OUT_OF_REACH = -2.0  # less than any cosine
_ONE_SIDED = 1.645  # quantile 0.95 of the normal distribution

Scores: TypeAlias = Callable[[Pairs, Modality, Modality, NDArray[np.int64]], NDArray[np.float64]]
"""From pairs, what asks, what is found and the rows that ask to scores, shape ``(rows, n)``."""


def by_projection(head: Head) -> Scores:
    """Score by the cosine of projected embeddings."""

    def scores(
        pairs: Pairs, asks: Modality, found: Modality, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        queries = head.project(pairs.half(asks)[rows], asks).astype(np.float64)
        return np.asarray(queries @ head.project(pairs.half(found), found).astype(np.float64).T)

    return scores


def by_codes(head: Head) -> Scores:
    """Score by the share of equal bits."""

    def scores(
        pairs: Pairs, asks: Modality, found: Modality, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        queries = _signs(head, pairs.half(asks)[rows], asks)
        # Products of +1 and -1 are exact in float32 up to 2**24 bits.
        return (queries @ _signs(head, pairs.half(found), found).T).astype(np.float64) / head.bits

    return scores


def by_cosine(
    pairs: Pairs, asks: Modality, found: Modality, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Score by the cosine of the encoder's own embeddings."""
    return np.asarray(pairs.half(asks)[rows].astype(np.float64) @ pairs.half(found).T)


def reranked(codes: Scores) -> Scores:
    """Score the nearest ``SHORTLIST`` by the encoder's cosine; all others are out of reach."""

    def scores(
        pairs: Pairs, asks: Modality, found: Modality, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        near = _nearest(_of_others(pairs, rows, codes(pairs, asks, found, rows)), _shortlist(pairs))
        return np.where(near, by_cosine(pairs, asks, found, rows), _OUT_OF_REACH)

    return scores


def scores_of(head: Head) -> Scores:
    """Return how a head is to be judged: by its codes where it has any."""
    return by_codes(head) if head.bits else by_projection(head)


def per_query(
    pairs: Pairs, direction: str, scores: Scores, seed: int = 0, most: int = MAX_QUERIES
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of each query that another episode answers.

    Args:
        pairs: One side: its pairs ask, and are what is found.
        direction: Of ``DIRECTIONS``.
        scores: Higher is better.
        seed: Draws the queries where there are more than ``most``.
        most: Queries at most. Where instructions ask, one of each text and episode.

    Returns:
        Metric of ``METRICS`` to float64, shape ``(queries,)``.
    """
    asks, found = DIRECTIONS[direction]
    rows, answers = _queries(pairs, asks, seed, most)
    if not len(rows):
        return {name: np.zeros(0) for name in METRICS}
    judged = _of_others(pairs, rows, scores(pairs, asks, found, rows))
    judged[np.isneginf(judged)] = np.nan
    ids = np.arange(len(pairs))
    names = [f"q{row}" for row in rows.tolist()]
    run = Run.from_scores(names, ids, judged, _DEPTH)
    query, entry = np.nonzero(answers)
    values = evaluate(Qrels.from_pairs(names, query, entry), run, (1, _DEPTH)).values
    return {name: values[name] for name in METRICS}


def kept(
    pairs: Pairs, direction: str, codes: Scores, seed: int = 0, most: int = MAX_QUERIES
) -> NDArray[np.float64]:
    """Return each query's share of the encoder's ten best that is among the nearest codes.

    Queries and ``SHORTLIST`` are those of ``per_query`` and ``reranked``.

    Args:
        pairs: One side.
        direction: Of ``DIRECTIONS``.
        codes: Higher is nearer.
        seed: As in ``per_query``.
        most: Likewise.

    Returns:
        Shape ``(queries,)``.
    """
    asks, found = DIRECTIONS[direction]
    rows, _ = _queries(pairs, asks, seed, most)
    best, near = (
        _nearest(_of_others(pairs, rows, scores(pairs, asks, found, rows)), count)
        for scores, count in ((by_cosine, _DEPTH), (codes, _shortlist(pairs)))
    )
    return np.asarray((best & near).sum(axis=1) / np.maximum(best.sum(axis=1), 1))


class Validation:
    """How good heads are on one side, as training is decided by it.

    That is NDCG@10. Where a head makes codes, it is the mean of their NDCG@10 and of the share of
    the encoder's ten best that they keep: they stand alone, and they propose.

    Args:
        pairs: The side.
        directions: Of ``DIRECTIONS``, whose mean counts.
        seed: As in ``per_query``.
    """

    def __init__(self, pairs: Pairs, directions: Sequence[str], seed: int) -> None:
        self._pairs, self._directions, self._seed = pairs, directions, seed

    def __call__(self, head: Head) -> float:
        """Return the mean over the directions of the mean over their queries."""
        values = self._values(head)
        if head.bits:
            codes = by_codes(head)
            values += [kept(self._pairs, d, codes, self._seed) for d in self._directions]
        return float(np.mean([of.mean() for of in values]))

    def surely_better(self, head: Head, than: Head) -> bool:
        """Return whether one head is better than another, and not only by chance.

        In each direction queries are paired, and the mean gain is compared with its standard
        error: a one-sided test at the level of 5%, for the mean over the directions.
        """
        gains = [a - b for a, b in zip(self._values(head), self._values(than), strict=True)]
        mean = float(np.mean([gain.mean() for gain in gains]))
        errors = [gain.var(ddof=1) / len(gain) if len(gain) > 1 else np.inf for gain in gains]
        return mean > _ONE_SIDED * float(np.sqrt(np.sum(errors))) / len(gains)

    def _values(self, head: Head) -> list[NDArray[np.float64]]:
        scores = scores_of(head)
        return [
            per_query(self._pairs, direction, scores, self._seed)["ndcg@10"]
            for direction in self._directions
        ]


def measured(pairs: Pairs, scores: Scores, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Return each metric of each direction with its 95% bootstrap interval over the queries."""
    return {
        direction: estimates(per_query(pairs, direction, scores, seed), seed=seed)
        for direction in DIRECTIONS
    }


def _queries(
    pairs: Pairs, asks: Modality, seed: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows that ask, and which pairs answer each: shape ``(rows, n)``."""
    labels, episodes = codes_of(pairs.labels), codes_of(pairs.episodes)
    rows = _asking(pairs, asks, seed, most)
    answers = (labels[rows][:, None] == labels) & (episodes[rows][:, None] != episodes)
    return rows[answers.any(axis=1)], answers[answers.any(axis=1)]


def _of_others(
    pairs: Pairs, rows: NDArray[np.int64], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return scores in which the own episode, which is not asked for, takes no place."""
    episodes = codes_of(pairs.episodes)
    return np.where(episodes[rows][:, None] == episodes, -np.inf, scores)


def _nearest(scores: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Return which ``count`` of each row are the best; earlier ones of equals."""
    found = np.zeros(scores.shape, bool)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.put_along_axis(found, order, True, axis=1)
    return found & np.isfinite(scores)


def _shortlist(pairs: Pairs) -> int:
    return min(SHORTLIST, -(-len(pairs) // 10))


def _asking(pairs: Pairs, asks: Modality, seed: int, most: int) -> NDArray[np.int64]:
    rows = np.arange(len(pairs))
    if asks is Modality.INSTRUCTION:
        first = {key: row for row, key in reversed(list(enumerate(zip(pairs.texts, pairs.episodes,
                                                                      strict=True))))}  # fmt: skip
        rows = np.array(sorted(first.values()), np.int64)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return rows


def _signs(head: Head, embeddings: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
    bits = np.unpackbits(head.codes(embeddings, modality), axis=1)
    return bits.astype(np.float32) * 2 - 1
