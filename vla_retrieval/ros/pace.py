"""How long answers take: percentiles over the last ones, and what to expect of the next."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

_KEPT = 1_000
_KEPT_OF_A_KIND = 32
_HOLDS_SEC = 10.0
_QUICK_PERCENT = 10


class Pace:
    """The times of the last answers. Any thread may note and read."""

    def __init__(self) -> None:
        """Start without an answer."""
        # A deque that another thread appends to cannot be iterated.
        self._lock = threading.Lock()
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    def note(self, seconds: float) -> None:
        """Note one answer's time."""
        with self._lock:
            self._seconds.append(seconds)

    def percentiles(self, *shares: float) -> list[float]:
        """Return the times that so many percent of the last thousand stayed below, in seconds.

        Args:
            shares: Percent, each in [0, 100].

        Returns:
            One time per share, by linear interpolation; NaN before the first answer.
        """
        with self._lock:
            seconds = list(self._seconds)
        if not seconds:
            return [math.nan] * len(shares)
        values: list[float] = np.percentile(seconds, shares).tolist()
        return values

    def reset(self) -> None:
        """Start without an answer again."""
        with self._lock:
            self._seconds.clear()


class Forecast:
    """When a request would be answered, by how long the last ones of each kind took.

    What it knows holds for ten seconds: a node that was slow once, and refuses whoever cannot wait
    that long, has to try again to learn that it is quick now. Any thread may note and ask.
    """

    def __init__(self) -> None:
        """Start without knowing anything."""
        self._lock = threading.Lock()  # a deque that another thread appends to cannot be iterated
        self._taken: dict[str, deque[tuple[float, float]]] = {}

    def note(self, kind: str, seconds: float, now_sec: float) -> None:
        """Note how long one took in its inference thread.

        Args:
            kind: Of job.
            seconds: That it took.
            now_sec: Seconds on a steady clock, as in the calls that follow.
        """
        with self._lock:
            taken = self._taken.setdefault(kind, deque(maxlen=_KEPT_OF_A_KIND))
            taken.append((now_sec, seconds))

    def answer_in_sec(
        self, kind: str, in_front: Iterable[tuple[str, float]], now_sec: float
    ) -> float:
        """Return after how many seconds a request would be answered that came now.

        For those in front it counts what one of their kind mostly takes, the median, less what it
        has been running; for the request itself what it takes when all goes well, the tenth
        percentile. An unknown kind counts nothing: it is tried.

        Args:
            kind: Of the request.
            in_front: Kinds of those that run before, each with how long it has been running.
            now_sec: Seconds on the steady clock.
        """
        wait_sec = sum(
            max(0.0, self._percentile(other, 50, now_sec) - age_sec) for other, age_sec in in_front
        )
        return wait_sec + self._percentile(kind, _QUICK_PERCENT, now_sec)

    def _percentile(self, kind: str, percent: float, now_sec: float) -> float:
        with self._lock:
            taken = list(self._taken.get(kind, ()))
        recent = [seconds for since_sec, seconds in taken if now_sec - since_sec <= _HOLDS_SEC]
        return float(np.percentile(recent, percent)) if recent else 0.0
