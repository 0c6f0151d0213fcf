"""Percentiles of the last answers' times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="the pace belongs to the node")

from vla_retrieval.ros.pace import Pace


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
