"""Service replies: the answer or the reason, once, and never from a blocked callback."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol

from rclpy.task import Future

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

    The service callback awaits it, an inference thread or the deadline's timer settles it.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Make an unsettled reply.

        Args:
            wake: Wakes the executor: a coroutine is resumed only when it looks again.
        """
        self._wake = wake
        self._future: Future[Any] = Future()
        # Protects the decision who was first.
        self._lock = threading.Lock()
        self._settled = False

    @property
    def settled(self) -> bool:
        """Whether somebody has answered already."""
        return self._settled

    def settle(self, response: Response) -> bool:
        """Answer, unless somebody has; return whether this was the answer."""
        with self._lock:
            if self._settled:
                return False
            self._settled = True
        self._future.set_result(response)
        self._wake()
        return True

    def __await__(self) -> Generator[Any, Any, Any]:
        """Wait for the response without blocking the executor."""
        return self._future.__await__()
