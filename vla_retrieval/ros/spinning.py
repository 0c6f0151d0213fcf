"""How messages reach callbacks: which of rclpy's executors runs, and how it is woken.

rclpy's own loop makes a list of everything that a node listens to, anew for each message, in
Python: some 0.6 ms before a camera's frame is in its callback. Its ``EventsExecutor`` is told by
the middleware what has come. It is from Kilted on, and called experimental.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.task import Future

from vla_retrieval.errors import InvalidInputError

EXECUTORS = ("auto", "events", "single_threaded")

# Its `spin` and `spin_once` without a limit deliver nothing in some builds, with a core taken.
_AT_ONCE_SEC = 1.0


def new_spinner(kind: str = "auto", context: Context | None = None) -> Spinner:
    """Return what runs callbacks in the thread that calls ``spin``.

    Args:
        kind: One of ``EXECUTORS``; ``auto`` takes events where rclpy has them.
        context: Of the nodes; None is the default one.

    Raises:
        InvalidInputError: If rclpy does not have that kind.
    """
    executor = None if kind == "single_threaded" else _events_executor(context)
    if executor is not None:
        return _EventsSpinner(executor)
    if kind == "events":
        raise InvalidInputError(
            "executor", "auto or single_threaded: this ROS 2 has no EventsExecutor", kind
        )
    return Spinner(SingleThreadedExecutor(context=context))


class Spinner:
    """Runs callbacks one after the other, by rclpy's ``SingleThreadedExecutor``.

    Attributes:
        executor: To add nodes to.
    """

    def __init__(self, executor: Executor) -> None:
        """Use ``new_spinner``."""
        self.executor = executor
        self._stopped: Future[None] = Future()

    def spin(self) -> None:
        """Run callbacks until ``stop``.

        Raises:
            rclpy.executors.ExternalShutdownException: If the context was shut down.
            Exception: What a callback raised; it may be called again then.
        """
        self.executor.spin_until_future_complete(self._stopped)

    def wake(self) -> None:
        """Let it look again at coroutines that wait; any thread may call it."""
        self.executor.wake()

    def stop(self) -> None:
        """Let ``spin`` return; any thread may call it."""
        self._stopped.set_result(None)

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped.done()


class _EventsSpinner(Spinner):
    """The same by ``EventsExecutor``, which looks at waiting coroutines only when it begins."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self._awake: Future[None] = Future()

    def spin(self) -> None:
        while not self.stopped:
            # In this order: what was set before a `wake` that ended the last round is seen by this
            # one, and a `wake` from here on ends this one.
            self._awake = Future()
            if self.stopped:
                return
            try:
                self.executor.spin_until_future_complete(self._awake, _AT_ONCE_SEC)
            finally:
                # It leaves a bare pointer to itself in a future, where a callback failed.
                self._awake = Future()

    def wake(self) -> None:
        self._awake.set_result(None)

    def stop(self) -> None:
        super().stop()
        self.wake()


def _events_executor(context: Context | None) -> Any:
    """Return rclpy's executor that hears of events, or None where there is none."""
    with suppress(ImportError):
        from rclpy.experimental import EventsExecutor

        return EventsExecutor(context=context)
    return None
