"""A watchdog bites whoever does not come back, and nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="the watchdog belongs to the node")

from vla_retrieval.ros.watchdog import Watchdog
from vla_retrieval.ros.worker import MOST_STUCK, InferenceWorker, WorkerStalledError

from .inference import Gate

WAIT_SEC = 20.0
LIMIT_SEC = 8.0  # so that it ticks every second


class Blocked:
    """A worker that is in a job which does not end by itself."""

    def __init__(self) -> None:
        self.worker = InferenceWorker(max_waiting=8)
        self.go_on = threading.Event()
        self.reasons: list[Exception] = []
        self.occupy()

    def occupy(self) -> None:
        """Return once the worker is in another such job."""
        entered = threading.Event()

        def hold() -> None:
            entered.set()
            self.go_on.wait(WAIT_SEC)

        self.worker.submit(hold, self.reasons.append)
        assert entered.wait(WAIT_SEC)


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    blocked = Blocked()
    yield blocked
    blocked.go_on.set()
    blocked.worker.close()


def test_a_job_that_takes_longer_than_the_limit_has_its_thread_replaced(blocked: Blocked) -> None:
    """Not before; and the limit of the next job begins anew."""
    dog = Watchdog(blocked.worker, LIMIT_SEC, 100.0)
    for second in range(1, 9):
        dog.tick(100.0 + second)
    assert blocked.worker.replaced == 0
    dog.tick(109.0)
    assert blocked.worker.replaced == 1
    assert [type(reason) for reason in blocked.reasons] == [WorkerStalledError]
    assert "longer than 8 s (worker_stall_sec)" in str(blocked.reasons[0])
    blocked.occupy()
    for second in range(10, 18):
        dog.tick(100.0 + second)
    assert blocked.worker.replaced == 1


def test_a_job_that_ends_as_its_time_is_over_is_not_held_against_the_next(
    blocked: Blocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread came back between the look and what follows from it."""
    worker, gates, replace = blocked.worker, list[Gate](), blocked.worker.replace

    def come_back_first(reason: str, turn: int | None) -> bool:
        blocked.go_on.set()
        gates.append(Gate(worker))
        return replace(reason, turn)

    monkeypatch.setattr(worker, "replace", come_back_first)
    dog = Watchdog(worker, LIMIT_SEC, 100.0)
    for second in range(1, 10):
        dog.tick(100.0 + second)
    (healthy,) = gates
    assert (worker.replaced, healthy.reasons, dog.judge(110.0)) == (0, [], "")
    healthy.open()


def test_time_that_nobody_had_is_not_held_against_the_worker(blocked: Blocked) -> None:
    """A process that was stopped for an hour finds a job that seems to have taken that long."""
    dog = Watchdog(blocked.worker, LIMIT_SEC, 0.0)
    dog.tick(1.0)
    dog.tick(3601.0)
    assert blocked.worker.replaced == 0
    for second in range(3602, 3607):
        dog.tick(float(second))
    assert blocked.worker.replaced == 0
    dog.tick(3607.0)
    assert blocked.worker.replaced == 1


def test_many_short_jobs_are_not_one_long_one() -> None:
    """Each has the whole limit, also where a job is in hand at every tick."""
    worker = InferenceWorker(max_waiting=8)
    dog = Watchdog(worker, LIMIT_SEC, 0.0)
    for second in range(30):
        entered, go_on = threading.Event(), threading.Event()
        worker.submit(lambda e=entered, g=go_on: (e.set(), g.wait(WAIT_SEC)), lambda _: None)
        assert entered.wait(WAIT_SEC)
        dog.tick(float(second))
        go_on.set()
    worker.close()
    assert worker.replaced == 0


def test_a_worker_without_a_job_is_left_alone() -> None:
    """However long nobody asks."""
    worker = InferenceWorker(max_waiting=8)
    dog = Watchdog(worker, LIMIT_SEC, 0.0)
    for second in range(1, 30):
        dog.tick(float(second))
    worker.close()
    assert worker.replaced == 0


def test_inference_goes_on_at_the_next_look_after_a_stuck_thread_came_back(
    blocked: Blocked,
) -> None:
    """Where so many were stuck that there was no thread left."""
    dog = Watchdog(blocked.worker, LIMIT_SEC, 0.0)
    for number in range(MOST_STUCK):
        if number:
            blocked.occupy()
        blocked.worker.replace("the device hangs")
    blocked.go_on.set()
    while blocked.worker.stuck:
        threading.Event().wait(0.001)
    dog.tick(0.1)
    done = threading.Event()
    blocked.worker.submit(done.set, lambda _: None)
    assert done.wait(WAIT_SEC)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced_at_the_next_look() -> None:
    """It does not have to have been in a job for long."""
    worker = InferenceWorker(max_waiting=8)
    dog = Watchdog(worker, LIMIT_SEC, 0.0)

    def die() -> None:
        raise SystemExit

    worker.submit(die, lambda _: None)
    while not worker.has_died:
        threading.Event().wait(0.001)
    dog.tick(0.1)
    done = threading.Event()
    worker.submit(done.set, lambda _: None)
    assert done.wait(WAIT_SEC)
    assert "the inference thread died" in dog.judge(0.2)
    worker.close()


def test_what_happened_is_told_for_a_minute_and_as_long_as_a_thread_is_stuck(
    blocked: Blocked,
) -> None:
    """With how often and why."""
    dog = Watchdog(blocked.worker, LIMIT_SEC, 0.0)
    assert dog.judge(0.0) == ""
    for second in range(1, 10):
        dog.tick(float(second))
    for words in ("replaced 1 times", "worker_stall_sec", "1 of the old threads have not"):
        assert words in dog.judge(500.0)
    blocked.go_on.set()
    while blocked.worker.stuck:
        threading.Event().wait(0.001)
    assert "have come back" in dog.judge(60.0)
    assert dog.judge(500.0) == ""


def test_it_looks_by_itself_once_it_is_started(blocked: Blocked) -> None:
    """And the worker goes on without anybody's help."""
    dog = Watchdog(blocked.worker, 0.2, 0.0)
    done = threading.Event()
    blocked.worker.submit(done.set, lambda _: None)
    dog.start()
    assert done.wait(WAIT_SEC)
    dog.stop()
    assert blocked.worker.replaced == 1


def test_a_look_that_fails_is_not_the_last(
    blocked: Blocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as where a new thread is not to be had just now."""
    dog = Watchdog(blocked.worker, 0.2, 0.0)
    replace, failed = blocked.worker.replace, threading.Event()

    def fail_once(reason: str, turn: int | None) -> bool:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("can't start new thread")
        return replace(reason, turn)

    monkeypatch.setattr(blocked.worker, "replace", fail_once)
    done = threading.Event()
    blocked.worker.submit(done.set, lambda _: None)
    dog.start()
    assert done.wait(WAIT_SEC)
    dog.stop()
    assert blocked.worker.replaced == 1
