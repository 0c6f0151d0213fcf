"""Percentiles of the last answers' times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="the pace belongs to the node")

from vla_retrieval.ros.pace import Forecast, Pace


def test_before_the_first_answer_there_is_no_time() -> None:
    """Not zero, which would be a very quick node."""
    assert all(math.isnan(value) for value in Pace().percentiles(50, 99))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=1500))
def test_percentiles_are_those_of_the_last_thousand(seconds: list[float]) -> None:
    """As numpy computes them."""
    pace = Pace()
    for value in seconds:
        pace.note(value)
    np.testing.assert_allclose(
        pace.percentiles(50, 99), np.percentile(seconds[-1000:], [50, 99]), rtol=1e-12
    )


def test_after_a_reset_it_starts_anew() -> None:
    """A node that was activated again tells of now."""
    pace = Pace()
    pace.note(5.0)
    pace.reset()
    pace.note(1.0)
    assert pace.percentiles(50) == [1.0]


def test_whoever_waits_waits_for_those_in_front_by_what_their_kinds_mostly_take() -> None:
    """Medians for them, less what the one in hand has been running; all goes well for itself."""
    forecast = Forecast()
    for seconds in (0.2, 0.3, 0.7):
        forecast.note("image", seconds, 0.0)
    for seconds in (0.01, 0.02, 0.9):
        forecast.note("text", seconds, 0.0)
    in_front = [("image", 0.1), ("text", 0.0), ("image", 0.0)]
    own = float(np.percentile([0.01, 0.02, 0.9], 10))
    expected = (0.3 - 0.1) + 0.02 + 0.3 + own
    assert forecast.answer_in_sec("text", in_front, 1.0) == pytest.approx(expected)


def test_one_that_runs_longer_than_mostly_is_about_to_end_for_all_that_is_known() -> None:
    forecast = Forecast()
    forecast.note("image", 0.2, 0.0)
    assert forecast.answer_in_sec("text", [("image", 5.0)], 0.0) == 0.0


def test_what_is_not_known_is_tried() -> None:
    """A kind that never ran counts nothing, and neither does what is older than ten seconds."""
    forecast = Forecast()
    assert forecast.answer_in_sec("text", [("image", 0.0)], 0.0) == 0.0
    forecast.note("text", 3.0, 0.0)
    assert forecast.answer_in_sec("text", [], 9.9) == 3.0
    assert forecast.answer_in_sec("text", [], 10.1) == 0.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=100))
def test_a_forecast_is_made_of_the_last_thirty_two(seconds: list[float]) -> None:
    """As numpy computes it; a robot that runs for months does not remember all of it."""
    forecast = Forecast()
    for value in seconds:
        forecast.note("text", value, 0.0)
    waits = forecast.answer_in_sec("text", [("text", 0.0)], 0.0)
    expected = np.percentile(seconds[-32:], 50) + np.percentile(seconds[-32:], 10)
    assert waits == pytest.approx(float(expected))
