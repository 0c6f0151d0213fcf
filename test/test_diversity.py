from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_retrieval.diversity import MOST, choose, cosines, pool

SCORES = arrays(np.float64, st.integers(1, 12), elements=st.floats(-1, 1, width=32)).map(
    lambda scores: np.sort(scores)[::-1]
)


def by_hand(
    scores: list[float], likeness: list[list[float]], k: int, diversity: float
) -> list[int]:
    """Maximal marginal relevance as the paper words it, in plain Python."""
    low, high = min(scores), max(scores)
    relevance = [1.0 if high == low else (score - low) / (high - low) for score in scores]
    chosen: list[int] = []
    while len(chosen) < min(k, len(scores)):
        left = [i for i in range(len(scores)) if i not in chosen]
        marginal = {
            i: (1 - diversity) * relevance[i]
            - (diversity * max(likeness[i][j] for j in chosen) if chosen else 0.0)
            for i in left
        }
        chosen.append(max(left, key=lambda i: (marginal[i], -i)) if chosen else 0)
    return chosen


@given(SCORES, st.integers(1, 14), st.floats(0, 1, width=32), st.integers(0, 1000))
def test_the_choice_is_maximal_marginal_relevance(
    scores: np.ndarray, k: int, diversity: float, seed: int
) -> None:
    vectors = np.random.default_rng(seed).integers(-3, 4, (len(scores), 3)) + 0.5
    likeness = cosines(vectors.astype(np.float32))
    expected = by_hand(scores.tolist(), likeness.tolist(), k, diversity)
    assert choose(scores, likeness, k, diversity) == expected


@given(SCORES, st.integers(1, 14))
def test_no_diversity_keeps_the_order_of_the_scores(scores: np.ndarray, k: int) -> None:
    assert choose(scores, np.ones((len(scores),) * 2), k, 0.0) == list(range(min(k, len(scores))))


def test_a_copy_of_the_best_comes_after_what_is_different() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert choose(np.array([0.9, 0.9, 0.5]), cosines(vectors), 3, 0.6) == [0, 2, 1]


def test_what_comes_behind_the_most_that_are_chosen_follows_by_score() -> None:
    count, looked_at = 2 * MOST, MOST + 10
    likeness = np.random.default_rng(0).random((looked_at, looked_at))
    found = choose(np.linspace(1, 0, count), likeness, count, 1.0)
    assert sorted(found) == list(range(count))
    assert found[:MOST] != sorted(found[:MOST])
    assert found[MOST:] == sorted(found[MOST:])


@pytest.mark.parametrize(("k", "candidates"), [(1, 5), (MOST, 5 * MOST), (10**6, 10**6)])
def test_so_many_candidates_are_looked_at(k: int, candidates: int) -> None:
    assert pool(k) == candidates


def test_nothing_to_choose_from_gives_nothing() -> None:
    assert choose(np.array([]), np.zeros((0, 0)), 5, 0.5) == []


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_likeness_does_not_depend_on_the_length_of_vectors(scale: float) -> None:
    vectors = np.array([[1, 2], [3, -1], [0.5, 0.5]], dtype=np.float32)
    np.testing.assert_allclose(cosines(vectors * np.float32(scale)), cosines(vectors), atol=1e-6)
