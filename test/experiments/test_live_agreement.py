"""A live and an offline evaluation rank alike, up to ties, or they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import Agreement, Evaluation
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.experiments.judging import Judge
from vla_retrieval.experiments.live import TOLERANCE, compare
from vla_retrieval.experiments.ranked import HeldRankings, Ranked
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.experiments.settings import ExperimentSettings

Answers = Sequence[tuple[str, Sequence[tuple[int, float]]]]
FRAME = Frame("q", "bag", "/i", 0, 0, "camera", "go", "bag-1", 0, lambda: None, lambda: None)  # type: ignore[arg-type, return-value]
OFFLINE: Answers = [("a", [(0, 0.9), (1, 0.8), (2, 0.1)]), ("b", [(1, 0.5), (2, 0.4), (0, 0.2)])]


def outcome(answers: Answers) -> Outcome:
    ids = [query_id for query_id, _ in answers]
    hits = [(row, *hit) for row, (_, found) in enumerate(answers) for hit in found]
    rows, entries, scores = (np.array(column) for column in zip(*hits, strict=True))
    run = Run.from_hits(ids, rows, entries, scores, 3)
    frames = [replace(FRAME, query_id=query_id) for query_id in ids]
    judge = Judge(frames, ExperimentSettings())
    ranked = {name: Ranked(frames, HeldRankings(run), judge) for name in DIRECTIONS}
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
