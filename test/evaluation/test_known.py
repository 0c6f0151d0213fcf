"""How well known is, on queries held out, against loops over pairs and folds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.calibration import TopScores, fit
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.known import auroc, measure_known
from vla_retrieval.evaluation.results import KnownResult
from vla_retrieval.types import Similarity

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_the_right_order(
    answerable: list[float], absent: list[float]
) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in answerable for b in absent]
    assert auroc(np.array(answerable), np.array(absent)) == pytest.approx(np.mean(pairs))


def test_auroc_of_nothing_is_nan() -> None:
    assert math.isnan(auroc(np.array([1.0]), np.array([])))


def measure(gap: float, instructions: int = 20, episodes: int = 10) -> KnownResult:
    """Measure with scores ``gap`` standard deviations apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(instructions), episodes)
    queries = np.arange(len(labels))
    high = TopScores(gap + rng.normal(size=len(labels)), queries)
    low = TopScores(rng.normal(size=len(labels)), queries)
    return measure_known(high, labels, low, labels, alpha=0.1)


def test_rates_are_those_of_the_distributions() -> None:
    """With normal scores 3 apart: 10% below -1.28 + 3, and 4.3% of the others above it."""
    found = measure(3.0)
    assert found.threshold == pytest.approx(3 - 1.2816, abs=0.25)
    assert found.false_rejects.low < 0.1 < found.false_rejects.high
    assert found.false_accepts.low < 0.043 < found.false_accepts.high
    assert found.auroc.low < 0.983 < found.auroc.high


def test_where_scores_say_nothing_nine_of_ten_absent_queries_pass() -> None:
    found = measure(0.0)
    assert found.auroc.low < 0.5 < found.auroc.high
    assert found.false_accepts.low < 0.9 < found.false_accepts.high


def test_an_instruction_is_judged_without_its_own_queries() -> None:
    """Half of all queries are one instruction's and low: their own calibration would let them pass.

    With it, the threshold is at -9; without it, at 1, and all of them are called unknown.
    """
    labels = np.repeat([0, *range(1, 11)], [50, *[5] * 10])
    values = np.where(labels == 0, -9.0, 1.0)
    queries = TopScores(values, np.arange(100))
    found = measure_known(queries, labels, queries, labels, alpha=0.1)
    assert found.false_rejects.value == 0.5


def test_intervals_are_wider_where_queries_of_an_instruction_are_alike() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(20), 20)
    queries = np.arange(400)
    alike = TopScores(rng.normal(size=20)[labels], queries)
    unlike = TopScores(rng.normal(size=400), queries)
    widths = []
    for high in (alike, unlike):
        found = measure_known(high, labels, unlike, labels, alpha=0.1)
        widths.append(found.auroc.high - found.auroc.low)
    assert widths[0] > 2 * widths[1]


def test_one_instruction_alone_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="two instructions"):
        measure(1.0, instructions=1)


def test_too_few_episodes_without_those_held_out_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"at least 9 episodes for alpha 0\.1"):
        measure(1.0, instructions=2, episodes=5)


@pytest.mark.parametrize("seed", range(5))
def test_absent_queries_without_an_answer_anywhere_leave_every_fold_enough_episodes(
    seed: int,
) -> None:
    """However many they are: 22 episodes in ten folds are at most 3 in one, and 19 are needed."""
    rng = np.random.default_rng(seed)
    answerable, absent = np.arange(22), np.arange(22, 122)
    high, low = TopScores(rng.normal(3, 1, 22), answerable), TopScores(rng.normal(size=100), absent)
    found = measure_known(high, answerable, low, absent, alpha=0.05, seed=seed)
    assert (found.answerable, found.absent) == (22, 100)


@pytest.mark.parametrize(
    ("similarity", "rejected"), [(Similarity.NEGATIVE_L2, 0.0), (Similarity.COSINE, 0.1)]
)
def test_scores_count_as_equal_as_their_similarity_has_it(
    similarity: Similarity, rejected: float
) -> None:
    """Of ten, one says the same in another precision, as far off as distances may be."""
    labels = np.arange(10)
    high = TopScores(np.where(labels == 0, -0.005, 0.0), labels)
    low = TopScores(np.full(10, -1.0), labels)
    found = measure_known(high, labels, low, labels, alpha=0.2, similarity=similarity)
    assert found.false_rejects.value == pytest.approx(rejected)
    assert found.threshold == fit(high, alpha=0.2, similarity=similarity).threshold
