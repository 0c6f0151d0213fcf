"""A reply is settled once, whoever comes first."""

from __future__ import annotations

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


def test_only_the_first_answer_counts_and_the_executor_is_woken_for_it() -> None:
    woken: list[bool] = []
    reply = Reply(lambda: woken.append(True))
    assert not reply.settled
    assert reply.settle(Forget.Response(memory_size=1))
    assert not reply.settle(Forget.Response(memory_size=2))
    assert reply.settled
    assert woken == [True]
    with pytest.raises(StopIteration) as finished:
        next(iter(reply.__await__()))
    assert finished.value.value.memory_size == 1


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
