"""Two inference threads: who does what, and how they end."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy", reason="the inference threads belong to the node")

from vla_retrieval.ros.lanes import Lanes
from vla_retrieval.ros.worker import InferenceWorker, WorkerClosedError

WAIT_SEC = 20.0
STALL_SEC = 60.0


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    lanes = Lanes(3, 1 << 20, STALL_SEC, lambda _: None)
    yield lanes
    lanes.close(WAIT_SEC)


class Held:
    """A thread in a job that does not end by itself."""

    def __init__(self, worker: InferenceWorker) -> None:
        self.reasons: list[Exception] = []
        self.go_on = threading.Event()
        entered = threading.Event()

        def hold() -> None:
            entered.set()
            assert self.go_on.wait(WAIT_SEC)

        worker.submit(hold, self.reasons.append)
        assert entered.wait(WAIT_SEC)


def test_either_goes_on_while_the_other_is_held_up(lanes: Lanes) -> None:
    for has_picture in (False, True):
        held, done = Held(lanes.of(has_picture=not has_picture)), threading.Event()
        lanes.of(has_picture=has_picture).submit(done.set, lambda _: None)
        assert done.wait(WAIT_SEC)
        held.go_on.set()


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_pictures_stand_back_and_so_do_the_threads_that_they_start(lanes: Lanes) -> None:
    """A question, and the thread that receives frames, go first where the cores are few."""
    priorities: dict[str, int] = {}

    def note(name: str) -> None:
        priorities[name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def run(name: str, worker: InferenceWorker) -> None:
        done = threading.Event()

        def job() -> None:
            note(name)
            child = threading.Thread(target=note, args=(f"of {name}",))
            child.start()
            child.join()
            done.set()

        worker.submit(job, lambda _: None)
        assert done.wait(WAIT_SEC)

    note("here")
    run("pictures", lanes.pictures)
    run("words", lanes.words)
    assert priorities["words"] == priorities["of words"] == priorities["here"]
    assert priorities["pictures"] == priorities["of pictures"] > priorities["here"]


def test_what_waits_is_counted_and_taken_back_in_either(lanes: Lanes) -> None:
    held = [Held(lanes.pictures), Held(lanes.words)]
    jobs = [
        lanes.of(has_picture=has_picture).submit(lambda: None, lambda _: None)
        for has_picture in (False, True)
    ]
    assert lanes.waiting == 2
    for left, job in zip((1, 0), jobs, strict=True):
        lanes.withdraw(job)
        assert lanes.waiting == left
    for one in held:
        one.go_on.set()


def test_the_reasons_of_each_replacement_are_told(lanes: Lanes) -> None:
    """With which thread it was."""
    assert (lanes.reasons, lanes.replaced) == ("", 0)
    held = [Held(lanes.pictures), Held(lanes.words)]
    lanes.pictures.replace("the GPU hangs")
    lanes.words.replace("the disk hangs")
    assert lanes.reasons == "pictures: the GPU hangs; words: the disk hangs"
    assert (lanes.replaced, lanes.stuck) == (2, 2)
    for one in held:
        one.go_on.set()


def test_closing_waits_once_for_both_and_leaves_nobody_without_an_answer() -> None:
    """One that does not end is shut out, and does not keep the other from being closed."""
    lanes = Lanes(3, 1 << 20, STALL_SEC, lambda _: None)
    held = Held(lanes.pictures)
    assert not lanes.close(within_sec=0.01)
    assert [type(reason) for reason in held.reasons] == [WorkerClosedError]
    for worker in (lanes.pictures, lanes.words):
        with pytest.raises(WorkerClosedError):
            worker.submit(lambda: None, lambda _: None)
    held.go_on.set()


def test_closing_says_that_a_thread_is_left_where_only_one_of_them_ended() -> None:
    """Who ends the node says so then, and does not wait as long for the memory to be closed."""
    lanes = Lanes(3, 1 << 20, STALL_SEC, lambda _: None)
    held = Held(lanes.pictures)
    assert lanes.words.close()
    assert not lanes.close(within_sec=0.01)
    held.go_on.set()


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_pictures_are_embedded_where_priorities_may_not_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = threading.Event()

    def forbid(*_: int) -> None:
        asked.set()
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    worker, done = InferenceWorker(3, niceness=2), threading.Event()
    worker.submit(done.set, lambda _: None)
    assert asked.wait(WAIT_SEC)
    assert done.wait(WAIT_SEC)
    assert worker.close()
