"""A reply is settled once, whoever comes first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vla_retrieval.errors import (
    DeadlineExceededError,
    EncoderError,
    EntryNotFoundError,
    InvalidInputError,
    MemoryFormatError,
    MemoryFullError,
    StorageError,
)
from vla_retrieval.ros.replies import NoFrameError, NotActiveError, Reply, fail
from vla_retrieval.ros.worker import WorkerBusyError, WorkerClosedError, WorkerStalledError
from vla_retrieval_msgs.msg import Status
from vla_retrieval_msgs.srv import Forget

from .inference import WAIT_SEC


def test_only_the_first_answer_counts_and_all_who_wait_for_it_are_told_once() -> None:
    reply = Reply()
    told: list[int] = []
    reply.then(lambda response: told.append(response.memory_size))
    assert not reply.settled
    assert reply.settle(Forget.Response(memory_size=1))
    assert not reply.settle(Forget.Response(memory_size=2))
    assert reply.settled
    reply.then(lambda response: told.append(response.memory_size * 10))
    assert told == [1, 10]


def test_of_many_threads_that_answer_one_wins_and_who_waits_is_told_once() -> None:
    for _ in range(50):
        reply = Reply()
        told: list[int] = []
        start = threading.Barrier(5)

        def settle(number: int, reply: Reply = reply, start: threading.Barrier = start) -> bool:
            start.wait(WAIT_SEC)
            return reply.settle(Forget.Response(memory_size=number))

        def listen(
            reply: Reply = reply, told: list[int] = told, start: threading.Barrier = start
        ) -> None:
            start.wait(WAIT_SEC)
            reply.then(lambda response: told.append(response.memory_size))

        with ThreadPoolExecutor(5) as pool:
            won = [pool.submit(settle, number) for number in range(4)]
            pool.submit(listen).result()
        assert told == [number for number, future in enumerate(won) if future.result()]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInputError("k", "1", "0"), Status.INVALID_REQUEST),
        (NoFrameError("none"), Status.NO_FRAME),
        (EntryNotFoundError("none"), Status.NOT_FOUND),
        (DeadlineExceededError("late"), Status.DEADLINE_EXCEEDED),
        (NotActiveError("asleep"), Status.NOT_ACTIVE),
        (WorkerClosedError("gone"), Status.NOT_ACTIVE),
        (WorkerBusyError("full"), Status.BUSY),
        (WorkerStalledError("stuck"), Status.STALLED),
        (MemoryFullError("full"), Status.MEMORY_FULL),
        (StorageError("disk full"), Status.STORAGE),
        (MemoryFormatError("damaged"), Status.STORAGE),
        (EncoderError("no memory"), Status.INTERNAL),
    ],
)
def test_each_kind_of_failure_has_a_code_and_keeps_its_words(error: Exception, code: int) -> None:
    response = Forget.Response(success=True)
    fail(response, error)
    assert not response.success
    assert response.status.code == code
    assert response.message == str(error)


def test_a_defect_is_named_without_its_stack_trace() -> None:
    response = Forget.Response()
    fail(response, ZeroDivisionError("division by zero"))
    assert response.status.code == Status.INTERNAL
    assert "ZeroDivisionError" in response.message
    assert "log" in response.message
