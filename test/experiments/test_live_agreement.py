"""A live and an offline evaluation rank alike, up to ties, or they do not."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pytest

from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.results import Agreement, Evaluation
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.experiments.live import TOLERANCE, compare
from vla_retrieval.experiments.scoring import Ranked
from vla_retrieval.experiments.searching import DIRECTIONS

Answers = Sequence[tuple[str, Sequence[tuple[int, float]]]]
OFFLINE: Answers = [("a", [(0, 0.9), (1, 0.8), (2, 0.1)]), ("b", [(1, 0.5), (2, 0.4), (0, 0.2)])]


def outcome(answers: Answers) -> Outcome:
    ids = [query_id for query_id, _ in answers]
    hits = [(row, *hit) for row, (_, found) in enumerate(answers) for hit in found]
    rows, entries, scores = (np.array(column) for column in zip(*hits, strict=True))
    run = Run.from_hits(ids, rows, entries, scores, 3)
    nothing = np.zeros(0, np.int64)
    qrels = Qrels(tuple(ids), np.zeros(len(ids) + 1, np.int64), nothing, nothing)
    ranked = {name: Ranked((), run, qrels) for name in DIRECTIONS}
    return Outcome(Evaluation("", {}, {}, (), {}), MappingProxyType(ranked))


def compared(live: Answers) -> Agreement:
    return compare(outcome(live), outcome(OFFLINE))["pair"]


def test_rankings_are_compared_over_the_queries_that_both_answered() -> None:
    found = compared([OFFLINE[1], ("elsewhere", [(0, 1.0)])])
    assert found == Agreement(2, 2, both=1, same=1, largest_difference=0.0, tolerance=TOLERANCE)


def test_another_order_of_different_scores_is_not_the_same() -> None:
    found = compared([("a", [(1, 0.9), (0, 0.8), (2, 0.1)]), OFFLINE[1]])
    assert (found.both, found.same) == (2, 1)


def test_scores_of_an_equal_order_may_differ_and_the_difference_is_told() -> None:
    found = compared([("a", [(0, 0.9), (1, 0.75), (2, 0.1)])])
    assert found.same == 1
    assert found.largest_difference == pytest.approx(0.05)


def test_entries_that_score_alike_may_change_places() -> None:
    near = TOLERANCE / 2
    offline = outcome([("a", [(0, 0.5), (1, 0.5 - near), (2, 0.1)])])
    live = outcome([("a", [(1, 0.5), (0, 0.5 - near), (2, 0.1)])])
    assert compare(live, offline)["pair"].same == 1


def test_fewer_entries_than_offline_are_not_the_same() -> None:
    assert compared([("a", [(0, 0.9), (1, 0.8)])]).same == 0
