"""How messages reach callbacks: which of rclpy's executors runs.

rclpy's own loop makes a list of everything that a node listens to, anew for each message, in
Python: some 0.5 ms before a camera's frame is in its callback. Its ``EventsExecutor`` is told by
the middleware what has come. rclpy calls it experimental.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any, cast

from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from vla_retrieval.errors import InvalidInputError, did_you_mean

EXECUTORS = ("auto", "events", "single_threaded")

_TRIED = (9, 1, 2), (10,)
"""Versions of rclpy, from the one on and below the other, that events were tried with: Kilted's."""

_ROUND_SEC = 3600.0
"""Without a limit it delivers nothing in some builds, with a core taken, and each round leaves a
small object behind."""


class _Nobody:
    """A node that hears nothing.

    Where a task fails, rclpy 9.1.2 asks the only node for its logger, and ends the process over
    that: it takes a set for a list. With two nodes it asks none.
    """

    executor = None
    subscriptions = timers = clients = services = waitables = guards = ()


def new_spinner(kind: str = "auto", context: Context | None = None) -> Spinner:
    """Return what runs callbacks in the thread that calls ``spin``.

    Args:
        kind: One of ``EXECUTORS``; ``auto`` takes events where that was tried and can be.
        context: Of the nodes; None is the default one.

    Raises:
        InvalidInputError: If that is no kind, or there can be no executor of it.
    """
    if kind not in EXECUTORS:
        expected = f"one of {', '.join(EXECUTORS)}"
        raise InvalidInputError("executor", expected, repr(kind), did_you_mean(kind, EXECUTORS))
    if kind == "events" or (kind == "auto" and _TRIED[0] <= _version() < _TRIED[1]):
        try:
            return _EventsSpinner(_events_executor(context))
        except InvalidInputError:
            if kind == "events":
                raise
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

    def stop(self) -> None:
        """Let ``spin`` return; any thread may call it."""
        self._stopped.set_result(None)

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped.done()


class _EventsSpinner(Spinner):
    """The same by ``EventsExecutor``."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        executor.add_node(cast(Node, _Nobody()))

    def spin(self) -> None:
        while not self.stopped:
            self.executor.spin_until_future_complete(self._stopped, _ROUND_SEC)


def _events_executor(context: Context | None) -> Any:
    """Return rclpy's executor that hears of events.

    Raises:
        InvalidInputError: If there is none, or it cannot be: it wants a standard error output.
    """
    try:
        from rclpy.experimental import EventsExecutor

        return EventsExecutor(context=context)
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        raise InvalidInputError(
            "executor", f"auto or single_threaded, for rclpy's EventsExecutor says: {error}",
            "events",
        ) from error  # fmt: skip


def _version() -> tuple[int, ...]:
    """Return rclpy's version, or nothing where it does not tell."""
    try:
        text = importlib.metadata.version("rclpy")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(map(int, re.findall(r"\d+", text)[:3]))
