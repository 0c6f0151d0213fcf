"""Two evaluations rank alike, up to ties within a tolerance, or they do not."""

from __future__ import annotations

import numpy as np

from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.results import Agreement
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.agreement import compare_rankings
from vla_retrieval.experiments.scoring import Ranked

OFFLINE = [("a", [0.9, 0.8, 0.1]), ("b", [0.2, 0.5, 0.4])]


def ranked(queries: list[tuple[str, list[float]]]) -> dict[str, Ranked]:
    ids, scores = zip(*queries, strict=True)
    run = Run.from_scores(ids, np.arange(len(scores[0])), np.array(scores), 3)
    empty: list[int] = []
    qrels = Qrels(ids, np.zeros(len(ids) + 1, np.int64), np.array(empty), np.array(empty))
    return {"pair": Ranked((), run, qrels)}


def compared(live: list[tuple[str, list[float]]], depth: int = 3) -> Agreement:
    return compare_rankings(ranked(live), ranked(OFFLINE), depth, tolerance=1e-3)["pair"]


def test_equal_rankings_agree_over_the_queries_that_both_have() -> None:
    found = compared([("b", [0.2, 0.5, 0.4]), ("elsewhere", [1.0, 0.0, 0.0])])
    assert (found.both, found.same, found.near_ties, found.different) == (1, 1, 0, 0)
    assert found.score_difference == 0.0


def test_scores_may_differ_where_the_order_does_not() -> None:
    found = compared([("a", [0.9, 0.7, 0.1])])
    assert (found.same, found.different) == (1, 0)
    assert found.score_difference == np.float64(0.8) - 0.7


def test_another_order_of_different_scores_is_a_difference() -> None:
    found = compared([("a", [0.8, 0.9, 0.1]), ("b", OFFLINE[1][1])])
    assert (found.same, found.near_ties, found.different) == (1, 0, 1)


def test_what_lies_below_the_depth_does_not_count() -> None:
    found = compared([("b", [0.4, 0.5, 0.2])], depth=1)
    assert (found.same, found.different) == (1, 0)


def test_another_order_of_entries_that_score_the_same_is_a_near_tie() -> None:
    offline = ranked([("a", [0.5, 0.5005, 0.1])])
    live = ranked([("a", [0.5005, 0.5, 0.1])])
    found = compare_rankings(live, offline, 3, tolerance=1e-3)["pair"]
    assert (found.same, found.near_ties, found.different) == (0, 1, 0)


def test_an_entry_that_offline_does_not_find_is_a_difference() -> None:
    live = {"pair": Ranked((), Run.from_hits(["a"], [0, 0], [0, 7], [0.9, 0.8], 3),
                           ranked(OFFLINE)["pair"].qrels)}  # fmt: skip
    assert compare_rankings(live, ranked(OFFLINE), 3)["pair"].different == 1
