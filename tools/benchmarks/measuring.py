"""Timing that holds on a noisy machine: systems take turns, and ratios are taken round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TimeArray = npt.NDArray[np.float64]


BURST = 50
"""Queries in a row for one system where searches are compared.

The first of them finds the processor's caches full of the others' data, and some ten pass until
all that a system needs is back: a median over bursts of ten is of neither state. With 50 it is of a
system at work, and the first of each burst is told beside it."""


@dataclass(frozen=True)
class Laps:
    """What ``interleave`` saw.

    Attributes:
        seconds: Of each call, shape ``(rounds,)``.
        answers: Of each call, one a round.
        burst: Rounds in a row that each system ran before the next one's turn.
    """

    seconds: dict[str, TimeArray]
    answers: dict[str, list[Any]]
    burst: int = 1

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return min(len(laps) for laps in self.seconds.values())

    def latency(self, name: str) -> dict[str, float]:
        """Median and 99th percentile of one call, in milliseconds, and the median of the first.

        The first of each burst comes after the others' work, which has emptied the processor's
        caches, as an encoder does between two queries of a robot.
        """
        laps = self.seconds[name] * 1e3
        return {
            "p50_ms": float(np.quantile(laps, 0.5)),
            "p99_ms": float(np.quantile(laps, 0.99)),
            "first_p50_ms": float(np.quantile(laps[:: self.burst], 0.5)),
        }

    def ratio(self, above: str, below: str) -> dict[str, float]:
        """Spread over the rounds of one call's time divided by another's in the same round."""
        return spread(self.seconds[above] / self.seconds[below])


def interleave(
    calls: Mapping[str, Callable[[int], Any]],
    rounds: int,
    limit_sec: float = math.inf,
    least: int = 3,
    burst: int = 1,
) -> Laps:
    """Run every call once a round, so that a disturbance hits all of them alike.

    Systems take turns every ``burst`` rounds, and the order turns by one place each time: nobody
    always runs after the one that emptied the processor's caches. One round before the first is
    not counted.

    Args:
        calls: By name; each gets the number of its round.
        rounds: Most rounds.
        limit_sec: No new round is begun after it.
        least: Rounds that are run whatever they take.
        burst: Rounds in a row for one system. With 1, each call finds the caches emptied by the
            others; with more, most find their own data there.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, list[Any]] = {name: [] for name in names}
    for call in calls.values():
        call(0)
    begun = time.perf_counter()
    for first in range(0, rounds, burst):
        if first >= least and time.perf_counter() - begun > limit_sec:
            break
        shift = first // burst % len(names)
        for name in names[shift:] + names[:shift]:
            for turn in range(first, min(first + burst, rounds)):
                started = time.perf_counter()
                answer = calls[name](turn)
                seconds[name].append(time.perf_counter() - started)
                answers[name].append(answer)
    return Laps({name: np.array(laps) for name, laps in seconds.items()}, answers, burst)


def spread(values: npt.ArrayLike) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), [0.1, 0.5, 0.9])
    return {"median": float(middle), "p10": float(low), "p90": float(high)}
