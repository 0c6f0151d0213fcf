"""The inference worker where a thread does not come back, dies, or is not to be had."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from unittest.mock import MagicMock

import pytest

pytest.importorskip("rclpy", reason="the worker belongs to the node")

from vla_retrieval.ros.worker import (
    MOST_STUCK,
    InferenceWorker,
    WorkerClosedError,
    WorkerStalledError,
    effect,
)

from .inference import WAIT_SEC, Gate, ignore, run_one


def test_a_replaced_thread_has_its_job_answered_and_those_that_wait_are_run(
    worker: InferenceWorker,
) -> None:
    """The caller gets the reason and that nothing was changed; no other one is lost."""
    gate, done = Gate(worker), threading.Event()
    worker.submit(done.set, ignore)
    worker.replace("it took too long")
    assert done.wait(WAIT_SEC)
    (reason,) = gate.reasons
    assert isinstance(reason, WorkerStalledError)
    for words in ("it took too long", "Nothing was changed", "worker_stall_sec"):
        assert words in str(reason)
    assert (worker.replaced, worker.stuck, worker.last_reason) == (1, 1, "it took too long")
    gate.open()


def test_only_the_job_that_was_named_has_its_thread_replaced(worker: InferenceWorker) -> None:
    """Not the one that came after it, and nothing where none is in hand."""
    first = Gate(worker)
    late = worker.turn
    first.open()
    second = Gate(worker)
    assert not worker.replace("it took too long", late)
    assert (worker.replaced, second.reasons) == (0, [])
    assert worker.replace("it took too long", worker.turn)
    assert [type(reason) for reason in second.reasons] == [WorkerStalledError]
    run_one(worker)
    while worker.turn:
        threading.Event().wait(0.001)
    assert not worker.replace("it took too long", late)
    second.open()


def test_a_replaced_thread_changes_nothing_when_it_comes_back(worker: InferenceWorker) -> None:
    """Not even where it got as far as that at the same moment."""
    changed: list[str] = []

    def change() -> None:
        with effect("it was changed"):
            changed.append("changed")

    gate = Gate(worker, change)
    worker.replace("it took too long")
    gate.open()
    assert gate.ended.wait(WAIT_SEC)
    assert changed == []
    worker.submit(change, ignore)
    run_one(worker)
    assert changed == ["changed"], "the new thread may"


def test_a_thread_that_is_replaced_while_it_embeds_ahead_does_not_run_its_job() -> None:
    """Its caller was told that nothing was changed."""
    embedding, go_on, ran = threading.Event(), threading.Event(), []
    reasons: list[Exception] = []

    def embed(_: Sequence[str]) -> None:
        embedding.set()
        assert go_on.wait(WAIT_SEC)

    worker = InferenceWorker(max_waiting=3, embed_ahead=embed)
    gate = Gate(worker)
    for text in ("cup", "bowl"):
        worker.submit(lambda text=text: ran.append(text), reasons.append, inputs=(text,))
    gate.open()
    assert embedding.wait(WAIT_SEC)
    worker.replace("the device hangs")
    go_on.set()
    while worker.stuck:
        threading.Event().wait(0.001)
    run_one(worker)
    assert ran == ["bowl"]
    assert [type(reason) for reason in reasons] == [WorkerStalledError]
    worker.close()


def test_a_thread_that_is_replaced_amid_a_change_leaves_the_outcome_open(
    worker: InferenceWorker,
) -> None:
    """The caller is told, because the change may be made yet."""
    inside, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    reasons: list[Exception] = []

    def change() -> None:
        with effect("the pair was stored"):
            inside.set()
            assert go_on.wait(WAIT_SEC)
        ended.set()

    worker.submit(change, reasons.append)
    assert inside.wait(WAIT_SEC)
    worker.replace("the disk did not come back")
    assert "while the pair was stored, and whether that was done is not known" in str(reasons[0])
    go_on.set()
    assert ended.wait(WAIT_SEC)


def test_a_thread_that_is_replaced_after_a_change_says_that_it_was_made(
    worker: InferenceWorker,
) -> None:
    """Such as amid reading how many entries are left: who is told of no change asks again."""
    changed, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    reasons: list[Exception] = []

    def change() -> None:
        with effect("the entries were forgotten"):
            pass
        with pytest.raises(ZeroDivisionError), effect("the matches were published"):
            raise ZeroDivisionError
        changed.set()
        assert go_on.wait(WAIT_SEC)
        ended.set()

    worker.submit(change, reasons.append)
    assert changed.wait(WAIT_SEC)
    worker.replace("the disk did not come back")
    said = str(reasons[0])
    assert "It stalled after the entries were forgotten: that is done." in said
    for words in ("Nothing was changed", "Ask again", "published"):
        assert words not in said
    go_on.set()
    assert ended.wait(WAIT_SEC)


def test_where_no_thread_is_to_be_had_the_job_is_answered_and_one_is_started_later(
    worker: InferenceWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(worker)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", MagicMock(side_effect=RuntimeError("no thread")))
        worker.replace("it took too long")
        assert [type(reason) for reason in gate.reasons] == [WorkerStalledError]
        with pytest.raises(RuntimeError, match="no thread"):
            worker.go_on()
    worker.go_on()
    run_one(worker)
    gate.open()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_noticed_and_replaced(worker: InferenceWorker) -> None:
    """Whatever ended it, its job is answered for."""
    reasons: list[Exception] = []

    def die() -> None:
        raise SystemExit

    worker.submit(die, reasons.append)
    while not worker.has_died:
        threading.Event().wait(0.001)
    worker.replace("the inference thread died")
    run_one(worker)
    assert [type(reason) for reason in reasons] == [WorkerStalledError]
    assert (worker.has_died, worker.stuck) == (False, 0)


def test_after_too_many_stuck_threads_there_is_no_other_until_one_comes_back(
    worker: InferenceWorker,
) -> None:
    """Requests are refused with the reason and the next step meanwhile: threads are bounded."""
    gates, reasons = [], []
    for number in range(MOST_STUCK):
        gates.append(Gate(worker))
        if number == MOST_STUCK - 1:
            worker.submit(lambda: None, reasons.append)
        worker.replace("the device hangs")
    assert [type(reason) for reason in reasons] == [WorkerStalledError]
    assert worker.stuck == MOST_STUCK
    worker.go_on()
    with pytest.raises(WorkerStalledError, match=r"the device hangs.*configure"):
        worker.submit(lambda: None, ignore)
    gates[0].open()
    while worker.stuck == MOST_STUCK:
        threading.Event().wait(0.001)
    worker.go_on()
    run_one(worker)
    for gate in gates[1:]:
        gate.open()


def test_closing_does_not_wait_longer_than_it_is_told_for_the_job_in_hand() -> None:
    """Whoever waits for that job is answered, and it changes nothing any more."""
    worker, refused = InferenceWorker(max_waiting=3), threading.Event()

    def change() -> None:
        with pytest.raises(WorkerStalledError), effect("it was changed"):
            raise AssertionError("it was changed")
        refused.set()

    gate = Gate(worker, change)
    assert not worker.close(within_sec=0.01)
    assert [type(reason) for reason in gate.reasons] == [WorkerClosedError]
    gate.open()
    assert refused.wait(WAIT_SEC)


def test_closing_amid_a_change_leaves_the_outcome_open() -> None:
    """Who is told that the node is not active would store the pair once more."""
    worker, inside, go_on = InferenceWorker(max_waiting=3), threading.Event(), threading.Event()
    reasons: list[Exception] = []

    def change() -> None:
        with effect("the pair was stored"):
            inside.set()
            assert go_on.wait(WAIT_SEC)

    worker.submit(change, reasons.append)
    assert inside.wait(WAIT_SEC)
    assert not worker.close(within_sec=0.01)
    assert [type(reason) for reason in reasons] == [WorkerStalledError]
    assert "while the pair was stored, and whether that was done is not known" in str(reasons[0])
    go_on.set()
