"""Means over queries and over instructions, and their bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation import bootstrap
from vla_retrieval.evaluation.averaging import average
from vla_retrieval.evaluation.bootstrap import estimates
from vla_retrieval.evaluation.metrics import QueryMetrics

NAN = math.nan


def measured(values: list[float], relevant: list[int] | None = None) -> QueryMetrics:
    names = tuple(f"q{row}" for row in range(len(values)))
    counts = np.array([1] * len(values) if relevant is None else relevant, np.int64)
    return QueryMetrics(names, counts, {"mrr": np.array(values, np.float64)})


def test_micro_is_over_queries_and_macro_over_instructions():
    result = average(measured([1.0, 1.0, 1.0, 0.0]), ["cup", "cup", "cup", "杯子"])

    assert result.micro["mrr"].value == 3 / 4
    assert result.macro["mrr"].value == 1 / 2
    assert result.queries == 4


def test_queries_without_relevant_entries_are_counted_and_never_averaged_in():
    result = average(measured([1.0, NAN, 0.5], [2, 0, 4]), ["a", "a", "b"])

    assert (result.queries, result.without_relevant) == (2, 1)
    assert result.micro["mrr"].value == 3 / 4
    assert result.per_instruction[0].queries == 1


def test_both_intervals_are_those_of_the_seed_and_the_resamples_that_are_asked_for():
    values = np.random.default_rng(0).random(12)
    instructions = [f"i{number % 4}" for number in range(12)]
    result = average(measured(values.tolist()), instructions, seed=3, resamples=50)
    means = values.reshape(3, 4).mean(axis=0)

    asked = {"seed": 3, "resamples": 50}
    for found, units in ((result.micro["mrr"], values), (result.macro["mrr"], means)):
        expected = estimates({"mrr": units}, **asked)["mrr"]
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-15)


def test_each_instruction_has_a_row_in_order_of_appearance():
    result = average(measured([0.5, 0.0, 1.0], [2, 3, 6]), ["拿起杯子", "pick", "拿起杯子"])
    first, second = result.per_instruction

    assert (first.instruction, first.queries, first.relevant) == ("拿起杯子", 2, 4.0)
    assert first.metrics == {"mrr": 0.75}
    assert (second.instruction, second.metrics) == ("pick", {"mrr": 0.0})


def test_an_instruction_without_answerable_queries_has_a_row_and_no_part_in_macro():
    result = average(measured([NAN, 1.0], [0, 1]), ["a", "b"])
    row = result.per_instruction[0]

    assert row.queries == 0
    assert math.isnan(row.relevant)
    assert math.isnan(row.metrics["mrr"])
    assert result.macro["mrr"].value == 1.0


@pytest.mark.parametrize(("values", "relevant"), [([], []), ([NAN], [0])])
def test_without_answerable_queries_everything_is_nan(values, relevant):
    result = average(measured(values, relevant), ["a"] * len(values))

    for estimate in (result.micro["mrr"], result.macro["mrr"]):
        assert all(map(math.isnan, (estimate.value, estimate.low, estimate.high)))


def test_an_instruction_for_each_query_is_asked_for():
    with pytest.raises(InvalidInputError, match="instructions: expected one for each query, got 1"):
        average(measured([1.0, 1.0]), ["a"])


def test_the_macro_interval_sees_that_frames_of_one_instruction_go_together():
    values = [float(number % 4 > 0) for number in range(8) for _ in range(50)]
    result = average(measured(values), [f"i{number}" for number in range(8) for _ in range(50)])
    micro, macro = result.micro["mrr"], result.macro["mrr"]

    assert macro.high - macro.low > 4 * (micro.high - micro.low)


def test_the_interval_is_that_of_the_normal_distribution_for_many_queries():
    values = np.random.default_rng(3).random(4000)
    estimate = estimates({"x": values})["x"]
    half = 1.96 * values.std() / math.sqrt(len(values))

    assert estimate.value == values.mean()
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_resampled_means_are_those_of_the_units_that_were_drawn(monkeypatch):
    values = np.random.default_rng(0).random(7)
    drawn = np.random.default_rng(5).integers(0, 7, size=(11, 7))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    estimate = estimates({"x": values}, seed=5, resamples=11)["x"]

    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-15)
    # In chunks of one resample the generator gives the same numbers.
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", 1)
    again = estimates({"x": values}, seed=5, resamples=11)["x"]
    assert (again.low, again.high) == pytest.approx((low, high), abs=1e-15)


def test_a_seed_gives_the_same_interval_and_another_one_another():
    columns = {"x": np.random.default_rng(0).random(50)}

    assert estimates(columns, seed=1) == estimates(columns, seed=1)
    assert estimates(columns, seed=1) != estimates(columns, seed=2)


@given(st.floats(0, 1), st.integers(1, 20))
def test_equal_values_leave_no_room(value, n):
    estimate = estimates({"x": np.full(n, value)}, resamples=20)["x"]

    assert estimate.low == pytest.approx(value, abs=1e-15)
    assert estimate.high == pytest.approx(value, abs=1e-15)
    assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize(("field", "value"), [("resamples", 0), ("seed", -1)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(InvalidInputError, match=f"{field}: expected a whole number"):
        estimates({"x": np.ones(3)}, **{field: value})
