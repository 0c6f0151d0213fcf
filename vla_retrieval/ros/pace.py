"""How long answers take: percentiles over the last ones."""

from __future__ import annotations

import math
import threading
from collections import deque

import numpy as np

_KEPT = 1_000


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
