"""The order of candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval import ranking
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import Candidate

SCORES = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 0.5 + 1e-16, 1.0, math.inf, math.nan])
CANDIDATES = st.lists(
    st.tuples(st.integers(1, 50), SCORES), unique_by=lambda pair: pair[0], max_size=30
)


def candidates(*pairs: tuple[int, float]) -> list[Candidate]:
    return [Candidate(entry_id, score) for entry_id, score in pairs]


@given(CANDIDATES, st.integers(1, 40), st.sampled_from([-math.inf, 0.0, 0.5, math.inf]))
def test_ranking_equals_a_plain_sort(
    pairs: list[tuple[int, float]], k: int, min_score: float
) -> None:
    expected = sorted(
        (p for p in pairs if not math.isnan(p[1]) and p[1] >= min_score),
        key=lambda pair: (-pair[1], pair[0]),
    )[:k]
    ranked = ranking.rank(candidates(*pairs), k, min_score)
    assert [(c.entry_id, c.score) for c in ranked] == expected


def test_equal_scores_rank_by_lower_id() -> None:
    ranked = ranking.rank(candidates((3, 0.5), (1, 0.5), (2, 0.7)), 3)
    assert [c.entry_id for c in ranked] == [2, 1, 3]


def test_the_lower_id_stays_where_a_tie_is_cut() -> None:
    assert [c.entry_id for c in ranking.rank(candidates((9, 0.5), (4, 0.5)), 1)] == [4]


def test_nan_never_ranks() -> None:
    assert ranking.rank(candidates((1, math.nan)), 5) == []


def test_a_score_equal_to_the_minimum_stays() -> None:
    ranked = ranking.rank(candidates((1, 0.5), (2, 0.4)), 5, min_score=0.5)
    assert [c.entry_id for c in ranked] == [1]


def test_nothing_ranks_to_nothing() -> None:
    assert ranking.rank([], 1) == []


def test_order_takes_float32_scores_too() -> None:
    scores = np.array([0.1, np.nan, 0.3], dtype=np.float32)
    assert ranking.order(scores, np.array([1, 2, 3]), 5).tolist() == [2, 0]


@pytest.mark.parametrize("k", [0, -1])
def test_a_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(InvalidInputError, match="k: expected a whole number from 1 on"):
        ranking.rank([], k)


def test_a_nan_minimum_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="min_score"):
        ranking.rank([], 1, math.nan)
