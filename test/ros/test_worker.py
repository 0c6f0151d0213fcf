"""The inference worker: order, bounds, and what happens at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="the worker belongs to the node")

from vla_retrieval.ros.worker import (
    InferenceWorker,
    Priority,
    WorkerBusyError,
    WorkerClosedError,
)

WAIT_SEC = 20.0


class Gate:
    """Holds the worker in a job until it is opened."""

    def __init__(self, worker: InferenceWorker) -> None:
        """Occupy the worker."""
        self.entered, self._opened = threading.Event(), threading.Event()
        worker.submit(self._hold, lambda _: None)
        assert self.entered.wait(WAIT_SEC)

    def _hold(self) -> None:
        self.entered.set()
        assert self._opened.wait(WAIT_SEC)

    def open(self) -> None:
        """Let the worker go on."""
        self._opened.set()


@pytest.fixture
def worker() -> Iterator[InferenceWorker]:
    """Return a worker with room for three."""
    worker = InferenceWorker(max_waiting=3)
    yield worker
    worker.close()


def ignore(_: Exception) -> None:
    """Take a reason and do nothing."""


def test_requests_go_before_frames_and_equals_in_order(worker: InferenceWorker) -> None:
    """A planner does not wait behind the camera."""
    gate, ran, done = Gate(worker), [], threading.Event()
    worker.submit(lambda: (ran.append("frame"), done.set()), ignore, Priority.FRAME)
    worker.submit(lambda: ran.append("first"), ignore)
    worker.submit(lambda: ran.append("second"), ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    assert ran == ["first", "second", "frame"]


def test_a_full_queue_refuses_at_once(worker: InferenceWorker) -> None:
    """The fourth waiting job is told how many wait."""
    gate = Gate(worker)
    for _ in range(3):
        worker.submit(lambda: None, ignore)
    with pytest.raises(WorkerBusyError, match="3 requests"):
        worker.submit(lambda: None, ignore)
    gate.open()


def test_closing_gives_up_those_that_wait_and_refuses_new_ones() -> None:
    """Nobody is left without an answer."""
    worker = InferenceWorker(max_waiting=3)
    gate, reasons = Gate(worker), []
    worker.submit(lambda: reasons.append("ran"), reasons.append)
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not reasons:
        threading.Event().wait(0.001)
    gate.open()
    closing.join(WAIT_SEC)
    assert [type(reason) for reason in reasons] == [WorkerClosedError]
    with pytest.raises(WorkerClosedError):
        worker.submit(lambda: None, ignore)


def test_a_failing_job_is_reported_and_the_next_one_runs(worker: InferenceWorker) -> None:
    """A defect in one request does not end the thread."""
    reasons: list[Exception] = []
    done = threading.Event()
    worker.submit(lambda: 1 / 0, reasons.append)
    worker.submit(done.set, ignore)
    assert done.wait(WAIT_SEC)
    assert [type(reason) for reason in reasons] == [ZeroDivisionError]
