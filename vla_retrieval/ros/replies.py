"""Service replies: the answer or the reason, once, and never from a blocked callback."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from rclpy.service import Service

from vla_retrieval.errors import (
    DeadlineExceededError,
    EntryNotFoundError,
    InvalidInputError,
    MemoryFullError,
    RetrievalError,
    StorageError,
)
from vla_retrieval.ros.worker import WorkerBusyError, WorkerClosedError, WorkerStalledError
from vla_retrieval_msgs.msg import Status

_log = logging.getLogger(__name__)


class NoFrameError(RetrievalError):
    """The newest frame was asked for, and none has arrived."""


class NotActiveError(RetrievalError):
    """The node is not in its active state."""


class Response(Protocol):
    """What every response of the node's services has."""

    success: bool
    message: str
    status: Status


_CODES: tuple[tuple[type[Exception], int], ...] = (
    (InvalidInputError, Status.INVALID_REQUEST),
    (NoFrameError, Status.NO_FRAME),
    (EntryNotFoundError, Status.NOT_FOUND),
    (DeadlineExceededError, Status.DEADLINE_EXCEEDED),
    (NotActiveError, Status.NOT_ACTIVE),
    (WorkerClosedError, Status.NOT_ACTIVE),
    (WorkerBusyError, Status.BUSY),
    (WorkerStalledError, Status.STALLED),
    (MemoryFullError, Status.MEMORY_FULL),  # before its base
    (StorageError, Status.STORAGE),
)


def fail(response: Response, error: Exception) -> None:
    """Fill a response with the reason of a failure."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Status.INTERNAL)
    if code == Status.INTERNAL and not isinstance(error, RetrievalError):
        _log.error("a request failed", exc_info=error)
        response.message = f"the node failed on this request: {error!r}. Its log says more."
    else:
        response.message = str(error)
    response.success = False
    response.status = Status(code=code)


class Reply:
    """A response that is on its way; the first to settle it wins.

    The service's callback returns it, an inference thread or the deadline's alarm settles it.
    """

    def __init__(self) -> None:
        """Make an unsettled reply."""
        # Protects all below.
        self._lock = threading.Lock()
        self._response: Response | None = None
        self._then: list[Callable[[Response], object]] = []

    @property
    def settled(self) -> bool:
        """Whether somebody has answered already."""
        return self._response is not None

    def settle(self, response: Response) -> bool:
        """Answer, unless somebody has; return whether this was the answer."""
        with self._lock:
            if self._response is not None:
                return False
            self._response = response
            then, self._then = self._then, []
        for run in then:
            run(response)
        return True

    def then(self, run: Callable[[Response], object]) -> None:
        """Have a function called with the answer, by who settles it, or now where that is done."""
        with self._lock:
            if self._response is None:
                self._then.append(run)
                return
        run(self._response)


def send_when_settled(service: Service[Any, Any, Any], run_soon: Callable[..., object]) -> None:
    """Let the callbacks of a service return a ``Reply`` instead of the response.

    rclpy sends what a callback returns by the service's ``send_response``, whichever executor runs;
    here that waits until the reply is settled. A coroutine would do the same, but executors ask
    those that wait again with each thing that comes, or with a core taken, or hardly ever.

    Args:
        service: Of rclpy.
        run_soon: Has the executor call a function with arguments; called in any thread.
    """
    send_now = service.send_response

    def send(reply: Reply, header: Any) -> None:
        # Not by who settles it: rcl does not let two threads use one service.
        reply.then(lambda response: run_soon(send_now, response, header))

    service.send_response = send  # type: ignore[method-assign, assignment]
