"""The metrics, against tables worked by hand and against their definitions in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.metrics import QueryMetrics, cuts_of, evaluate, parse_metric
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.run import Run

LOG3 = math.log2(3)


def run_of(rankings: list[list[int]], depth: int = 0) -> Run:
    """Returns a run with these rankings, under the names q0, q1, ..."""
    pairs = [(row, entry, -rank) for row, r in enumerate(rankings) for rank, entry in enumerate(r)]
    rows, entry_ids, scores = zip(*pairs, strict=True) if pairs else ((), (), ())
    names = [f"q{row}" for row in range(len(rankings))]
    return Run.from_hits(names, rows, entry_ids, scores, depth or None)


def measure(
    grades: list[dict[int, int]], rankings: list[list[int]], ks=(1, 2, 5), depth: int = 0
) -> QueryMetrics:
    qrels = Qrels.from_mapping({f"q{row}": of for row, of in enumerate(grades)})
    return evaluate(qrels, run_of(rankings, depth), ks)


def values_of(measured: QueryMetrics, row: int = 0) -> dict[str, float]:
    return {name: float(values[row]) for name, values in measured.values.items()}


# Relevant: 10 (grade 1), 20 (grade 2), 30 (grade 3), with the gains 1, 3 and 7.
# Retrieved: 99, 10, 30.
# DCG@1 = 0; DCG@2 = 1 / log2(3); DCG@5 = 1 / log2(3) + 7 / 2.
# IDCG@1 = 7; IDCG@2 = 7 + 3 / log2(3); IDCG@5 = 7 + 3 / log2(3) + 1 / 2.
GRADED = {
    "accuracy@1": 0.0,
    "accuracy@2": 1 / 2,
    "accuracy@5": 2 / 5,
    "hit@1": 0.0,
    "hit@2": 1.0,
    "hit@5": 1.0,
    "recall@1": 0.0,
    "recall@2": 1 / 3,
    "recall@5": 2 / 3,
    "ndcg@1": 0.0,
    "ndcg@2": (1 / LOG3) / (7 + 3 / LOG3),
    "ndcg@5": (1 / LOG3 + 3.5) / (7.5 + 3 / LOG3),
    "mrr": 1 / 2,
}


def test_graded_relevance_gives_the_values_worked_by_hand():
    measured = measure([{10: 1, 20: 2, 30: 3}], [[99, 10, 30]])

    assert values_of(measured) == pytest.approx(GRADED, abs=1e-15)


def test_names_come_metric_by_metric_with_ascending_k():
    measured = measure([{1: 1}], [[1]], ks=(10, 1, 10))

    assert list(measured.values) == [
        "accuracy@1", "accuracy@10", "hit@1", "hit@10", "recall@1", "recall@10", "ndcg@1",
        "ndcg@10", "mrr",
    ]  # fmt: skip


def test_accuracy_is_divided_by_k_where_fewer_are_retrieved():
    values = values_of(measure([{1: 1, 2: 1}], [[1, 2]], ks=(5,)))

    assert values["accuracy@5"] == 2 / 5
    assert values["recall@5"] == 1.0
    assert values["ndcg@5"] == 1.0


def test_recall_counts_all_relevant_entries_also_beyond_k():
    values = values_of(measure([dict.fromkeys(range(1, 5), 1)], [[1, 2, 3, 4]], ks=(1, 2)))

    assert (values["recall@1"], values["recall@2"]) == (1 / 4, 1 / 2)
    assert (values["ndcg@1"], values["ndcg@2"]) == (1.0, 1.0)


def test_mrr_looks_beyond_every_k():
    assert values_of(measure([{7: 1}], [[1, 2, 3, 7]], ks=(1,)))["mrr"] == 1 / 4


def test_a_query_that_finds_nothing_relevant_is_zero_everywhere():
    measured = measure([{7: 1}, {7: 1}], [[1, 2], []])

    assert set(values_of(measured, 0).values()) == {0.0}
    assert set(values_of(measured, 1).values()) == {0.0}


def test_a_query_without_relevant_entries_has_no_values_and_is_counted():
    measured = measure([{}, {1: 1}], [[1], [1]])

    assert all(math.isnan(value) for value in values_of(measured, 0).values())
    assert values_of(measured, 1)["hit@1"] == 1.0
    assert measured.without_relevant == 1
    assert measured.answerable.tolist() == [False, True]
    assert measured.relevant.tolist() == [0, 1]


def test_nothing_is_relevant_to_any_query():
    measured = measure([{}, {}], [[1], []])

    assert measured.without_relevant == 2
    assert all(np.isnan(values).all() for values in measured.values.values())


def test_no_queries_give_empty_values():
    assert all(values.shape == (0,) for values in measure([], []).values.values())


def test_hit_and_recall_differ_where_several_scenes_fit_one_instruction():
    values = values_of(measure([{1: 1, 2: 1}], [[1, 9]], ks=(2,)))

    assert (values["hit@2"], values["recall@2"], values["accuracy@2"]) == (1.0, 0.5, 0.5)


def test_equal_scores_are_counted_in_the_order_of_entry_ids():
    qrels = Qrels.from_mapping({"q": {8: 1}})
    run = Run.from_scores(["q"], [[8, 3, 5]], [[0.5, 0.5, 0.5]], depth=3)

    assert evaluate(qrels, run).values["mrr"].tolist() == [1 / 3]


def test_relevance_of_one_query_does_not_count_for_another():
    measured = measure([{1: 1}, {2: 1}], [[2], [1]], ks=(1,))

    assert measured.values["hit@1"].tolist() == [0.0, 0.0]


def test_the_largest_entry_ids_are_found_too():
    large = 2**63 - 1
    measured = measure([{large: 2, 3: 1}, {large - 1: 1}], [[large, 4], [large - 1, large]])

    assert measured.values["hit@1"].tolist() == [1.0, 1.0]
    assert measured.values["accuracy@2"].tolist() == [0.5, 0.5]


def test_an_entry_above_all_relevant_ones_is_not_taken_for_one_of_the_next_query():
    # 9 of the first query and 2 of the second would be one number, were rows not wide enough.
    assert measure([{6: 1}, {2: 1}], [[9], [9]]).values["hit@1"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b", "a"], "got 'b' in place of 'a' at position 0"),
        (["a"], "got 1 queries in place of 2"),
        (["a", "b", "c"], "got 3 queries in place of 2"),
    ],
)
def test_a_run_of_other_queries_is_refused_with_the_next_step(names, message):
    qrels = Qrels.from_mapping({"a": {1: 1}, "b": {1: 1}})
    run = Run.from_hits(names, [], [], [])

    with pytest.raises(InvalidInputError, match=rf"run: expected .*{message}.*run\.aligned"):
        evaluate(qrels, run)


def test_a_k_below_one_is_refused():
    with pytest.raises(InvalidInputError, match="ks: expected whole numbers from 1 on, got 0"):
        measure([{1: 1}], [[1]], ks=(0, 1))


def test_without_any_k_only_mrr_is_computed():
    assert list(measure([{1: 1}], [[1]], ks=()).values) == ["mrr"]


def test_names_are_split_and_their_cuts_collected():
    assert parse_metric("ndcg@10") == ("ndcg", 10)
    assert parse_metric("mrr") == ("mrr", None)
    assert cuts_of(["recall@10", "mrr", "hit@1", "ndcg@10"]) == (1, 10)


@pytest.mark.parametrize(
    "name", ["", "ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "map@5", "mrr@5", "hit@01"]
)
def test_what_is_no_metric_is_refused(name):
    with pytest.raises(InvalidInputError, match="metric: expected mrr, or one of accuracy"):
        parse_metric(name)


def definition(grades: dict[int, int], ranking: list[int], k: int) -> dict[str, float]:
    """The metrics as their formulas say, for one query."""
    found = [grades.get(entry, 0) for entry in ranking]
    best = sorted(grades.values(), reverse=True)
    hits = sum(grade > 0 for grade in found[:k])

    def dcg(of: list[int]) -> float:
        return sum((2**g - 1) / math.log2(i + 1) for i, g in enumerate(of[:k], start=1))

    first = next((i for i, grade in enumerate(found, start=1) if grade), math.inf)
    return {
        f"accuracy@{k}": hits / k,
        f"hit@{k}": float(hits > 0),
        f"recall@{k}": hits / len(grades),
        f"ndcg@{k}": dcg(found) / dcg(best),
        "mrr": 1 / first,
    }


ENTRIES = st.integers(0, 12)
GRADES = st.dictionaries(ENTRIES, st.integers(1, 4), min_size=1, max_size=8)
RANKING = st.lists(ENTRIES, unique=True, max_size=10)
QUERIES = st.lists(st.tuples(GRADES, RANKING), min_size=1, max_size=6)
CUT = st.integers(1, 14)


@given(QUERIES, CUT)
def test_all_queries_at_once_equal_the_definitions_one_by_one(queries, k):
    measured = measure([grades for grades, _ in queries], [r for _, r in queries], ks=(k,))

    for row, (grades, ranking) in enumerate(queries):
        assert values_of(measured, row) == pytest.approx(
            definition(grades, ranking, k), rel=0, abs=1e-12
        )


@given(QUERIES)
def test_hit_and_recall_never_fall_with_k_and_nothing_leaves_zero_to_one(queries):
    ks = range(1, 13)
    measured = measure([grades for grades, _ in queries], [r for _, r in queries], ks=ks)

    for name in ("hit", "recall"):
        at = np.stack([measured.values[f"{name}@{k}"] for k in ks])
        assert (np.diff(at, axis=0) >= 0).all()
    for values in measured.values.values():
        assert ((values >= 0) & (values <= 1)).all()


@given(GRADES, CUT)
def test_the_ideal_order_has_an_ndcg_of_exactly_one(grades, k):
    ideal = sorted(grades, key=lambda entry: -grades[entry])

    assert values_of(measure([grades], [ideal], ks=(k,)))[f"ndcg@{k}"] == 1.0


@given(QUERIES, st.randoms(use_true_random=False))
def test_the_order_of_queries_changes_no_value(queries, random):
    grades = {f"q{row}": of for row, (of, _) in enumerate(queries)}
    run = run_of([ranking for _, ranking in queries])
    shuffled = random.sample(list(grades), len(grades))
    straight = evaluate(Qrels.from_mapping(grades), run)
    turned = evaluate(Qrels.from_mapping({q: grades[q] for q in shuffled}), run.aligned(shuffled))

    for name, values in straight.values.items():
        by_name = dict(zip(turned.query_ids, turned.values[name], strict=True))
        assert [by_name[q] for q in straight.query_ids] == values.tolist()


@given(QUERIES, st.integers(0, 5))
def test_more_padding_changes_no_value(queries, more):
    grades, rankings = [grades for grades, _ in queries], [r for _, r in queries]
    plain = measure(grades, rankings)
    padded = measure(grades, rankings, depth=run_of(rankings).depth + more)

    for name, values in plain.values.items():
        assert padded.values[name].tolist() == values.tolist()
