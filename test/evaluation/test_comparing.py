"""Runs against each other: randomisation tests, Holm, missing queries, gates."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation import randomization
from vla_retrieval.evaluation.comparing import compare, correct_together
from vla_retrieval.evaluation.gates import Gate, fails, parse_gate, tabulate
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.randomization import holm, p_values
from vla_retrieval.evaluation.run import Run

RELEVANT, OTHER = 1, 2


def qrels_of(m: int) -> Qrels:
    return Qrels.from_mapping({f"q{row}": {RELEVANT: 1} for row in range(m)})


def run_of(firsts: list[int]) -> Run:
    """Returns a run that answers query i with one entry."""
    names = [f"q{row}" for row in range(len(firsts))]
    return Run.from_hits(names, range(len(firsts)), firsts, np.ones(len(firsts)))


def one_p(values, **settings) -> float:
    return p_values({"x": np.array(values, dtype=np.float64)}, **settings)["x"]


def test_few_differences_are_tested_exactly():
    # Of the 8 sums with signs, only +6 and -6 are as far from 0 as 6.
    assert one_p([1.0, 2.0, 3.0]) == 2 / 8
    # 0 is the nearest that there is.
    assert one_p([1.0, -1.0]) == 1.0


def test_queries_without_a_difference_change_nothing():
    assert one_p([1.0, 0.0, 2.0, 0.0, 3.0, *[0.0] * 100]) == 2 / 8
    assert one_p([0.0, 0.0]) == 1.0
    assert one_p([]) == 1.0


@given(st.lists(st.integers(-9, 9).map(lambda tenths: tenths / 10), max_size=9))
def test_the_exact_test_tries_every_sign(values):
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
            for signs in product((-1, 1), repeat=len(values))]  # fmt: skip
    expected = np.mean([far >= abs(sum(values)) - 1e-9 for far in sums])

    assert one_p(values) == pytest.approx(expected, abs=1e-15)


def test_many_differences_are_sampled_close_to_the_exact_p(monkeypatch):
    values = np.random.default_rng(0).normal(0.4, 1.0, 16)
    exact = one_p(values)
    monkeypatch.setattr(randomization, "EXACT_UNITS", 0)

    assert one_p(values, flips=20_000) == pytest.approx(exact, abs=0.01)


def test_a_sampled_p_is_seeded_and_never_zero():
    values = np.ones(50)

    assert one_p(values, flips=99) == 1 / 100
    noisy = np.random.default_rng(1).normal(0.1, 1.0, 60)
    assert one_p(noisy, seed=4) == one_p(noisy, seed=4)
    assert one_p(noisy, seed=4) != one_p(noisy, seed=5)


def test_the_size_of_chunks_changes_no_sampled_p(monkeypatch):
    values = np.random.default_rng(1).normal(0.3, 1.0, 64)
    whole = one_p(values, flips=500)
    monkeypatch.setattr(randomization, "CHUNK_CELLS", 64 * 7)

    assert one_p(values, flips=500) == pytest.approx(whole, abs=0.05)
    # Every sum is as far from 0 as 0, so all flips count, and each once.
    assert one_p([1.0, -1.0] * 32, flips=500) == 1.0


def test_about_one_in_twenty_equal_runs_differs_at_five_percent():
    rng = np.random.default_rng(0)
    columns = {str(number): rng.normal(0, 1, 40) for number in range(600)}
    share = np.mean([p < 0.05 for p in p_values(columns, flips=1000).values()])

    assert 0.02 < share < 0.09


def test_holm_is_the_step_down_procedure_worked_by_hand():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})

    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert holm({"a": 0.8, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(("field", "value"), [("flips", 0), ("seed", -1)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(InvalidInputError, match=f"{field}: expected a whole number"):
        one_p([1.0], **{field: value})


def test_a_better_run_is_ahead_by_the_share_of_queries_that_it_wins():
    runs = {"old": run_of([OTHER] * 8 + [RELEVANT] * 2), "new": run_of([RELEVANT] * 10)}
    comparison = compare(qrels_of(10), runs, ["hit@1", "mrr"])
    hit, mrr = comparison.differences

    assert (hit.run, hit.metric, hit.baseline_value, hit.value) == ("new", "hit@1", 0.2, 1.0)
    assert hit.difference.value == pytest.approx(0.8)
    assert 0.4 < hit.difference.low < 0.8 < hit.difference.high <= 1.0
    assert hit.p == 2 / 2**8
    assert hit.p_corrected == mrr.p_corrected == 4 / 2**8


def test_a_run_does_not_differ_from_itself():
    run = run_of([RELEVANT, OTHER])
    difference = compare(qrels_of(2), {"a": run, "b": run}, ["ndcg@5"]).differences[0]

    assert (difference.p, difference.difference.low, difference.difference.high) == (1.0, 0.0, 0.0)


def test_three_runs_are_compared_with_the_first_and_corrected_together():
    runs = {"a": run_of([OTHER] * 6), "b": run_of([RELEVANT] * 6), "c": run_of([OTHER] * 6)}
    comparison = compare(qrels_of(6), runs, ["hit@1"])

    assert comparison.baseline == "a"
    assert [(d.run, d.p_corrected) for d in comparison.differences] == [("b", 4 / 2**6), ("c", 1.0)]


def test_a_missing_query_counts_as_zero_and_an_unknown_one_is_left_out():
    whole, fewer = run_of([RELEVANT] * 4), run_of([RELEVANT] * 4).aligned(["q0", "q1", "new"])
    comparison = compare(qrels_of(4), {"whole": whole, "fewer": fewer}, ["hit@1"])

    assert comparison.differences[0].value == 0.5
    assert comparison.missing == {"whole": 0, "fewer": 2}
    assert comparison.unknown == {"whole": 0, "fewer": 1}


def test_queries_without_relevant_entries_are_counted_and_not_compared():
    qrels = Qrels.from_mapping({"q0": {RELEVANT: 1}, "q1": {}})
    runs = {"a": run_of([OTHER, OTHER]), "b": run_of([RELEVANT])}
    comparison = compare(qrels, runs, ["hit@1"])

    assert (comparison.queries, comparison.without_relevant) == (1, 1)
    assert comparison.differences[0].value == 1.0
    assert comparison.missing["b"] == 0


def test_with_instructions_the_frames_of_one_count_as_one():
    runs = {"a": run_of([OTHER] * 30), "b": run_of([RELEVANT] * 20 + [OTHER] * 10)}
    instructions = ["cup"] * 20 + ["杯子"] * 10
    alone = compare(qrels_of(30), runs, ["hit@1"]).differences[0]
    together = compare(qrels_of(30), runs, ["hit@1"], instructions=instructions)

    assert alone.value == pytest.approx(2 / 3)
    assert alone.p < 0.001
    assert together.units == 2
    assert (together.differences[0].value, together.differences[0].p) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("runs", "metrics", "message"),
    [
        (1, ["mrr"], "runs: expected two or more, got 1"),
        (2, [], "metrics: expected one or more names"),
        (2, ["mrr", "mrr"], "metrics: expected .* each once"),
        (2, ["map"], "metric: expected"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, metrics, message):
    with pytest.raises(InvalidInputError, match=message):
        compare(qrels_of(1), {str(n): run_of([1]) for n in range(runs)}, metrics)


def test_qrels_without_anything_relevant_are_refused_and_do_not_pass():
    with pytest.raises(InvalidInputError, match="qrels: expected a query with a relevant entry"):
        compare(Qrels.from_mapping({"q0": {}}), {"a": run_of([1]), "b": run_of([1])}, ["mrr"])


def test_a_gate_is_read_from_text():
    assert parse_gate("ndcg@10:0.01") == Gate("ndcg@10", 0.01)
    assert parse_gate("mrr:0") == Gate("mrr", 0.0)


@pytest.mark.parametrize(
    "text",
    ["", "mrr", "mrr:", ":0.1", "map:0.1", "mrr:x", "mrr:nan", "mrr:-0.1", "mrr:2", "mrr:0:1"],
)
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(InvalidInputError, match="gate: expected a metric, a colon and a tolerance"):
        parse_gate(text)


def test_only_a_drop_that_is_large_and_sure_fails_a_gate():
    runs = {"old": run_of([RELEVANT] * 10), "new": run_of([OTHER] * 10)}
    fallen = compare(qrels_of(10), runs, ["mrr"]).differences[0]
    risen = replace(fallen, difference=replace(fallen.difference, value=1.0))
    unsure = replace(fallen, p_corrected=0.05)
    at_tolerance = replace(fallen, difference=replace(fallen.difference, value=0.1 - 0.4))

    assert fails(Gate("mrr", 0.01), fallen)
    assert not fails(Gate("mrr", 1.0), fallen)
    assert not fails(Gate("mrr", 0.01), risen)
    assert not fails(Gate("mrr", 0.01), unsure)
    assert not fails(Gate("mrr", 0.3), at_tolerance)


def test_the_table_has_a_row_for_each_difference_and_an_exit_code():
    runs = {"old": run_of([RELEVANT] * 10), "new": run_of([OTHER] * 10).aligned(["q0", "q1"])}
    comparison = compare(qrels_of(10), runs, ["hit@1", "mrr"])
    table = tabulate(comparison, [parse_gate("mrr:0.01")])

    assert table.exit_code == 1
    assert all(len(row) == len(table.header) for row in table.rows)
    assert [row[-1] for row in table.rows] == ["", "FAILED"]
    assert table.rows[0][:5] == ("new", "hit@1", "1.0000", "0.0000", "-1.0000")
    assert table.rows[0][8] == "8"
    assert tabulate(comparison, [parse_gate("mrr:1")]).exit_code == 0
    assert tabulate(comparison).exit_code == 0


@pytest.mark.parametrize("order", [("bad", "good"), ("good", "bad")])
def test_one_run_that_fails_is_enough_wherever_its_row_is(order):
    firsts = {"bad": [OTHER] * 10, "good": [RELEVANT] * 10}
    runs = {"old": run_of([RELEVANT] * 10), **{name: run_of(firsts[name]) for name in order}}
    table = tabulate(compare(qrels_of(10), runs, ["mrr"]), [parse_gate("mrr:0.01")])

    assert {row[0]: row[-1] for row in table.rows} == {"bad": "FAILED", "good": "passed"}
    assert table.exit_code == 1


def test_the_table_shows_what_the_baseline_lacks():
    runs = {"old": run_of([RELEVANT]).aligned(["other"]), "new": run_of([RELEVANT])}

    assert tabulate(compare(qrels_of(1), runs, ["mrr"])).rows[0][8] == "0 (baseline 1)"


def test_a_gate_on_what_was_not_compared_is_refused():
    comparison = compare(qrels_of(1), {"a": run_of([1]), "b": run_of([1])}, ["mrr"])

    with pytest.raises(InvalidInputError, match="gate: expected a metric that was compared: mrr"):
        tabulate(comparison, [parse_gate("hit@1:0.1")])


def test_what_is_decided_by_together_is_corrected_together():
    """One metric in five directions is five chances to be wrong."""
    firsts = {"a": 9 * [OTHER] + 3 * [RELEVANT], "b": 3 * [OTHER] + 9 * [RELEVANT]}
    qrels, base = qrels_of(12), run_of(12 * [RELEVANT])
    alone = {
        name: compare(qrels, {"base": base, "run": run_of(of)}, ["hit@1"], resamples=10)
        for name, of in firsts.items()
    }
    together = correct_together(alone)

    (a,), (b,) = (together[name].differences for name in firsts)
    assert a.p_corrected == 2 * a.p == 4 / 2**9
    assert b.p_corrected == b.p == 2 / 2**3
    for name, one in together.items():
        (before,), (after,) = alone[name].differences, one.differences
        assert replace(after, p_corrected=before.p_corrected) == before
