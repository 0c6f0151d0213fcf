"""The inference worker: order, bounds, and what happens at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

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


def test_a_flood_of_requests_does_not_starve_the_frame() -> None:
    """Whoever waits behind a full queue of requests has its turn after four of them."""
    worker = InferenceWorker(max_waiting=32)
    gate, ran, done = Gate(worker), [], threading.Event()
    for number in range(32):
        worker.submit(lambda number=number: ran.append(number), ignore)
    worker.submit(lambda: (ran.append("frame"), done.set()), ignore, Priority.FRAME)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    assert ran[:5] == [0, 1, 2, 3, "frame"]


def test_requests_are_not_held_up_by_frames_that_come_again_and_again() -> None:
    """Between two frames four requests run, and no request waits for a second frame in a row."""
    worker = InferenceWorker(max_waiting=32)
    gate, ran, done = Gate(worker), [], threading.Event()

    def look() -> None:
        ran.append("frame")
        if ran.count("frame") < 3:
            worker.submit(look, ignore, Priority.FRAME)
        else:
            done.set()

    worker.submit(look, ignore, Priority.FRAME)
    for _ in range(12):
        worker.submit(lambda: ran.append("request"), ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    assert ran[:14] == (["request"] * 4 + ["frame"]) * 2 + ["request"] * 4


def test_a_full_queue_of_requests_has_room_for_a_frame(worker: InferenceWorker) -> None:
    """Frames are bounded by themselves."""
    gate, done = Gate(worker), threading.Event()
    for _ in range(3):
        worker.submit(lambda: None, ignore)
    worker.submit(done.set, ignore, Priority.FRAME)
    gate.open()
    assert done.wait(WAIT_SEC)


def batches_of(instructions: list[str], *, fail: bool = False) -> tuple[list[list[str]], list[str]]:
    """Return what was embedded ahead and which jobs ran, for requests that wait together."""
    batches: list[list[str]] = []

    def embed(texts: Sequence[str]) -> None:
        batches.append(list(texts))
        if fail:
            raise ValueError("one of them is malformed")

    worker = InferenceWorker(max_waiting=64, embed_ahead=embed)
    gate, ran, done = Gate(worker), [], threading.Event()
    for text in instructions:
        worker.submit(lambda text=text: ran.append(text), ignore, instruction=text)
    worker.submit(done.set, ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    return batches, ran


def test_instructions_that_wait_together_are_embedded_together() -> None:
    """Each once, in batches of at most eight, and the jobs still run one by one."""
    texts = ["cup", "bowl", "", "cup"] + [f"block {i}" for i in range(12)]
    batches, ran = batches_of(texts)
    assert ran == texts
    assert batches[0] == ["cup", "bowl"] + [f"block {i}" for i in range(6)]
    assert batches[1] == [f"block {i}" for i in range(6, 12)]
    assert len(batches) == 2


def test_a_single_request_waits_for_no_batch() -> None:
    """Idle, nothing is done ahead."""
    assert batches_of(["cup"]) == ([], ["cup"])


def test_a_batch_that_fails_stops_no_request() -> None:
    """Each request finds out by itself what is wrong."""
    _, ran = batches_of(["cup", "bowl"], fail=True)
    assert ran == ["cup", "bowl"]
