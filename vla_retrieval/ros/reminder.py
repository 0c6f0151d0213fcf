"""When a warning that lasts is worth another line in the log."""

from __future__ import annotations

import math
import re

_NUMBERS = re.compile(r"[\d.]+")
_MOST_DOUBLED = 30


class Reminder:
    """Lets a warning through at once, and as long as it lasts after pauses that double.

    What differs in numbers only is the same warning: how long it has lasted is one of them.

    Args:
        first_sec: Least pause between two lines, whatever they are about.
        longest_sec: Longest pause between two lines about the same.
    """

    def __init__(self, first_sec: float, longest_sec: float) -> None:
        """Begin without a warning."""
        self._first_sec, self._longest_sec = first_sec, longest_sec
        self._about, self._told = "", 0
        self._last_sec = -math.inf

    def is_due(self, warning: str, now_sec: float) -> bool:
        """Return whether to log a warning now; then it counts as logged.

        Args:
            warning: Or nothing, when all is well.
            now_sec: Seconds on a steady clock.
        """
        about = _NUMBERS.sub("", warning)
        if about != self._about:
            self._about, self._told = about, 0
        doubled = max(0, min(self._told - 1, _MOST_DOUBLED))
        pause_sec = min(self._first_sec * 2**doubled, self._longest_sec)
        if not warning or now_sec < self._last_sec + pause_sec:
            return False
        self._last_sec = now_sec
        self._told += 1
        return True
