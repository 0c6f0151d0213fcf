"""Notices that the inference worker does not come back from a job, and replaces its thread."""

from __future__ import annotations

import logging
import math
import threading
import time

from vla_retrieval.ros.worker import InferenceWorker

_log = logging.getLogger(__name__)

_TELL_SEC = 60.0
"""How long a replacement stays an error in the diagnostics."""


class Watchdog:
    """Adds up how long it has seen the worker at one job.

    It counts its own ticks and not what the clock says: where the whole process was stopped, or
    had no processor, the worker could not go on either, and the one long tick counts as a short
    one. A job that is warming up has the same time as any other; the encoder was warmed up before
    the worker began.

    Args:
        worker: To be watched.
        limit_sec: Longest time at one job.
        now_sec: Seconds on a steady clock, as in the calls that follow.
    """

    def __init__(self, worker: InferenceWorker, limit_sec: float, now_sec: float) -> None:
        self._worker = worker
        self._of = (
            f"the inference thread for {worker.name}" if worker.name else "the inference thread"
        )
        self._limit_sec = limit_sec
        self._ticked_sec = now_sec
        self._turn = 0
        self._seen_sec = 0.0
        self._replaced_sec = -math.inf
        self._period_sec = min(1.0, limit_sec / 8)
        self._stopped = threading.Event()
        # Not the executor's: that may wait for the disk that the worker is stuck with.
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Tick in a thread of its own from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def tick(self, now_sec: float) -> None:
        """Look at the worker, and replace its thread where it died or took too long."""
        passed_sec = min(now_sec - self._ticked_sec, 2 * self._period_sec)
        self._ticked_sec = now_sec
        self._worker.go_on()
        turn = self._worker.turn
        self._seen_sec = self._seen_sec + passed_sec if turn == self._turn else 0.0
        self._turn = turn
        if self._worker.has_died:
            self._replace("the inference thread died", now_sec)
        elif turn and self._seen_sec >= self._limit_sec:
            reason = f"it took longer than {self._limit_sec:g} s (worker_stall_sec)"
            self._replace(reason, now_sec, turn)

    def judge(self, now_sec: float) -> str:
        """Return what is wrong with the worker, with the next step; mostly nothing."""
        worker = self._worker
        if not worker.stuck and now_sec - self._replaced_sec > _TELL_SEC:
            return ""
        state = (
            f"{worker.stuck} of the old threads have not come back"
            if worker.stuck
            else ("the old threads have come back")
        )
        return (
            f"{self._of} was replaced {worker.replaced} times, the last time because "
            f"{worker.last_reason}; {state}. Look at the log, the device and the disk."
        )

    def _run(self) -> None:
        while not self._stopped.wait(self._period_sec):
            try:
                self.tick(time.monotonic())
            except Exception:  # such as no thread to be had: who watches has to go on
                _log.exception("%s could not be looked after; it is tried again", self._of)

    def _replace(self, reason: str, now_sec: float, turn: int | None = None) -> None:
        self._turn, self._seen_sec = 0, 0.0
        # The job may have come to its end since it was looked at; the next one is not late.
        if self._worker.replace(reason, turn):
            self._replaced_sec = now_sec
            _log.error("%s was replaced because %s", self._of, reason)
