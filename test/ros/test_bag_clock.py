"""The clock of a bag goes on between its messages, and is right whatever their delay."""

from __future__ import annotations

import random

import pytest

from vla_retrieval.ros.bag_clock import BagClock

SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
STEADY_SEC = 5000.0


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0])
def test_it_is_as_wrong_as_its_promptest_message_was_late(rate: float) -> None:
    clock = BagClock(rate)
    draw = random.Random(1)
    delays = [draw.uniform(0.002, 0.3) for _ in range(100)]
    for number, delay in enumerate(delays):
        elapsed = 0.05 * number
        clock.take(START_NS + round(elapsed * rate * SECOND), STEADY_SEC + elapsed + delay)
    asked_ns = START_NS + round(2.5 * rate * SECOND)
    # The first message says nothing: the clock may have stood still before.
    assert clock.steady_sec(asked_ns) == pytest.approx(STEADY_SEC + 2.5 + min(delays[1:]), abs=1e-6)


def test_a_clock_that_stands_still_says_no_time() -> None:
    clock = BagClock(1.0)
    assert clock.steady_sec(START_NS) is None
    for number in range(5):
        clock.take(START_NS, STEADY_SEC + number)
    assert clock.said_ns == START_NS
    assert clock.steady_sec(START_NS) is None


def test_what_was_heard_before_it_went_on_counts_for_nothing() -> None:
    clock = BagClock(2.0)
    clock.take(START_NS, STEADY_SEC)
    clock.take(START_NS, STEADY_SEC + 60.0)
    clock.take(START_NS + SECOND, STEADY_SEC + 100.5)
    assert clock.steady_sec(START_NS) == pytest.approx(STEADY_SEC + 100.0)


def test_a_jump_back_begins_anew() -> None:
    clock = BagClock(1.0)
    for number in range(10):
        clock.take(START_NS + number * SECOND, STEADY_SEC + number)
    clock.take(START_NS, STEADY_SEC + 20.0)
    assert clock.steady_sec(START_NS) is None
    clock.take(START_NS + SECOND, STEADY_SEC + 21.0)
    assert clock.steady_sec(START_NS) == pytest.approx(STEADY_SEC + 20.0)


def test_starting_over_forgets() -> None:
    clock = BagClock(1.0)
    clock.take(START_NS, STEADY_SEC)
    clock.take(START_NS + 1, STEADY_SEC)
    clock.start_over()
    assert clock.said_ns is None
    assert clock.steady_sec(START_NS) is None
