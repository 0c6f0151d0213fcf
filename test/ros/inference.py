"""What the tests of the inference worker share."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vla_retrieval.ros.worker import InferenceWorker

WAIT_SEC = 20.0


class Gate:
    """Holds the worker in a job until it is opened."""

    def __init__(self, worker: InferenceWorker, then: Callable[[], None] = lambda: None) -> None:
        """Occupy the worker; when it is opened, the job does something more."""
        self.entered, self._opened = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self.reasons: list[Exception] = []
        self._then = then
        worker.submit(self._hold, self.reasons.append)
        assert self.entered.wait(WAIT_SEC)

    def _hold(self) -> None:
        self.entered.set()
        assert self._opened.wait(WAIT_SEC)
        try:
            self._then()
        finally:
            self.ended.set()

    def open(self) -> None:
        """Let the worker go on."""
        self._opened.set()


def ignore(_: Exception) -> None:
    """Take a reason and do nothing."""


def run_one(worker: InferenceWorker) -> None:
    """Return when the worker has run a job."""
    done = threading.Event()
    worker.submit(done.set, ignore)
    assert done.wait(WAIT_SEC)
