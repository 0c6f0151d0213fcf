"""Functions that are called at given times, in one thread that is there while some are to come.

A timer of rclpy for each request would leave something behind each time: a callback group keeps a
reference to whatever was ever in it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_LINGER_SEC = 10.0
"""That the thread waits for another one: to start it takes 0.1 ms."""

_FEW_CANCELLED = 64


class Alarm:
    """One function that is to be called; made by ``Alarms.at``."""

    def __init__(self, run: Callable[[], None], alarms: Alarms) -> None:
        """Use ``Alarms.at``."""
        self.run: Callable[[], None] | None = run
        self._alarms = alarms

    def cancel(self) -> None:
        """Let it not be called any more; does nothing where it was, or is being called."""
        self._alarms._cancel(self)


class Alarms:
    """Calls functions at times of ``time.monotonic``. Any thread may use it."""

    def __init__(self) -> None:
        """Begin without any."""
        # Protects all below; the thread sleeps on it until the next one is due.
        self._changed = threading.Condition()
        self._order = itertools.count()  # of those that are due at the same time
        self._waiting: list[tuple[float, int, Alarm]] = []
        self._cancelled = 0
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Return how many are to come."""
        with self._changed:
            return len(self._waiting) - self._cancelled

    def at(self, at_sec: float, run: Callable[[], None]) -> Alarm:
        """Have a function called, in a thread of its own, that must not take long.

        Args:
            at_sec: When, by ``time.monotonic``.
            run: What it raises is logged.
        """
        alarm = Alarm(run, self)
        with self._changed:
            heapq.heappush(self._waiting, (at_sec, next(self._order), alarm))
            if self._thread is None:
                self._start()
            elif self._waiting[0][2] is alarm:
                self._changed.notify()
        return alarm

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="alarms", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread is to be had: the next one tries again
            self._thread = None
            _log.warning("what is due is called later: %s", error)

    def _cancel(self, alarm: Alarm) -> None:
        with self._changed:
            if alarm.run is None:
                return
            alarm.run = None  # which may hold a picture
            self._cancelled += 1
            if self._cancelled > max(_FEW_CANCELLED, len(self._waiting) // 2):
                self._waiting = [entry for entry in self._waiting if entry[2].run is not None]
                heapq.heapify(self._waiting)
                self._cancelled = 0

    def _work(self) -> None:
        while (run := self._next()) is not None:
            try:
                run()
            except Exception:
                _log.exception("what was to be done at a given time failed")

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next one that is due and return its function; None ends the thread."""
        with self._changed:
            while True:
                if not self._waiting:
                    if not self._changed.wait_for(lambda: bool(self._waiting), _LINGER_SEC):
                        self._thread = None
                        return None
                    continue
                at_sec, _, alarm = self._waiting[0]
                left_sec = at_sec - time.monotonic()
                if alarm.run is not None and left_sec > 0:
                    self._changed.wait(left_sec)
                    continue
                heapq.heappop(self._waiting)
                run, alarm.run = alarm.run, None
                if run is not None:
                    return run
                self._cancelled -= 1
