"""How well top scores tell answerable queries from absent ones, on queries held out.

Queries are held out by instruction: each is judged by a calibration that was fitted without any
query of its instruction. So all queries are judged, by calibrations that are nearly the whole one;
two halves would judge half of them, by one fitted on the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.calibration import TopScores, fewest_episodes, fit
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.results import Estimate, KnownResult
from vla_retrieval.types import Similarity

FOLDS = 10
_RESAMPLES = 1000
_INTERVAL = (2.5, 97.5)


def measure_known(
    answerable: TopScores,
    answerable_instructions: NDArray[np.int64],
    absent: TopScores,
    absent_instructions: NDArray[np.int64],
    *,
    alpha: float,
    similarity: Similarity = Similarity.COSINE,
    seed: int = 0,
) -> KnownResult:
    """Return what a calibration of these queries gets wrong, with 95% intervals.

    Shares are of queries. Intervals are percentiles of 1000 bootstrap resamples of instructions:
    queries of one instruction are alike, and come and go together.

    Args:
        answerable: Queries with something relevant in the memory.
        answerable_instructions: Number of each one's instruction, shape ``(n,)``.
        absent: Queries about what is not there.
        absent_instructions: Number of each one's instruction, shape ``(m,)``.
        alpha: Share of answerable queries that may be called unknown.
        similarity: Of the scores.
        seed: Of the folds and the resamples.

    Raises:
        InvalidInputError: If there are fewer than two instructions, no absent query, or too few
            episodes in a fold for anything to be called unknown.
    """
    rng = np.random.default_rng(seed)
    found = _fold_of(answerable_instructions, absent_instructions, rng)
    folds = found[answerable_instructions], found[absent_instructions]
    known = np.zeros(len(answerable), bool), np.zeros(len(absent), bool)
    for fold in range(int(found.max()) + 1):
        rest = answerable.of(folds[0] != fold)
        _check_enough(rest, alpha)
        fitted = fit(rest, alpha=alpha, similarity=similarity)
        for scores, fold_of, is_known in zip((answerable, absent), folds, known, strict=True):
            is_known[fold_of == fold] = fitted.is_known(scores.scores[fold_of == fold])
    rejects = _weighted_mean(~known[0])
    accepts = _weighted_mean(known[1])
    area = _area(answerable.scores, absent.scores)
    statistics = (lambda _, b: accepts(b)), (lambda a, _: rejects(a)), area
    estimates = _estimates(statistics, answerable_instructions, absent_instructions, rng)
    whole = fit(answerable, alpha=alpha, similarity=similarity)
    return KnownResult(len(answerable), len(absent), whole.threshold, *estimates)


def auroc(answerable: NDArray[np.float64], absent: NDArray[np.float64]) -> float:
    """Return the probability that an answerable query scores above an absent one; ties are half.

    NaN without one of either. It is the Mann-Whitney U statistic over the number of pairs.
    """
    return _area(answerable, absent)(np.ones(len(answerable)), np.ones(len(absent)))


_Statistic = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


def _area(answerable: NDArray[np.float64], absent: NDArray[np.float64]) -> _Statistic:
    """Return what computes the AUROC of weighted queries."""
    order = np.argsort(absent, kind="stable")
    below = np.searchsorted(absent[order], answerable, side="left")
    up_to = np.searchsorted(absent[order], answerable, side="right")

    def area(of_answerable: NDArray[np.float64], of_absent: NDArray[np.float64]) -> float:
        pairs = of_answerable.sum() * of_absent.sum()
        if not pairs:
            return float("nan")
        cumulated = np.concatenate([[0.0], np.cumsum(of_absent[order])])
        return float(of_answerable @ (cumulated[below] + cumulated[up_to]) / 2 / pairs)

    return area


def _weighted_mean(values: NDArray[np.bool_]) -> Callable[[NDArray[np.float64]], float]:
    def mean(weights: NDArray[np.float64]) -> float:
        total = weights.sum()
        return float(weights @ values / total) if total else float("nan")

    return mean


def _fold_of(
    answerable: NDArray[np.int64], absent: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the fold of each number of an instruction."""
    instructions = np.union1d(answerable, absent)
    if len(instructions) < 2 or not len(absent):
        raise InvalidInputError(
            "absent", "queries of two instructions and more, of which some are absent",
            f"{len(instructions)} instructions and {len(absent)} absent queries",
            "One instruction alone does not show what the score of another one is.",
        )  # fmt: skip
    folds = np.zeros(int(instructions.max()) + 1, np.int64)
    # Those with answerable queries are dealt out first, so that every fold leaves enough of them.
    with_answer = np.isin(instructions, answerable)
    order = np.concatenate([rng.permutation(instructions[with_answer]),
                            rng.permutation(instructions[~with_answer])])  # fmt: skip
    folds[order] = np.arange(len(order)) % FOLDS
    return folds


def _check_enough(rest: TopScores, alpha: float) -> None:
    needed = fewest_episodes(alpha)
    if rest.episode_count < needed:
        raise InvalidInputError(
            "answerable",
            f"queries from at least {needed} episodes for alpha {alpha:g}, without those of the"
            " instructions that are held out",
            f"{rest.episode_count} of them",
            "Remember more episodes of instructions that were given before, or take a larger"
            " alpha.",
        )  # fmt: skip


def _resamples(
    answerable: NDArray[np.int64], absent: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each number of an instruction is drawn, shape ``(numbers,)``, many times."""
    instructions = np.union1d(answerable, absent)
    numbers = int(instructions.max()) + 1
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, len(instructions), len(instructions))
        yield np.bincount(instructions[drawn], minlength=numbers).astype(np.float64)


def _estimates(
    statistics: Sequence[_Statistic],
    answerable: NDArray[np.int64],
    absent: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[Estimate]:
    drawn = [
        [statistic(count[answerable], count[absent]) for statistic in statistics]
        for count in _resamples(answerable, absent, rng)
    ]
    found = []
    for statistic, column in zip(statistics, np.array(drawn).T, strict=True):
        value = statistic(np.ones(len(answerable)), np.ones(len(absent)))
        values = column[np.isfinite(column)]
        low, high = np.percentile(values, _INTERVAL) if len(values) else (np.nan, np.nan)
        found.append(Estimate(value, float(low), float(high)))
    return found
