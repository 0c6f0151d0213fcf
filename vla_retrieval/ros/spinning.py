"""How messages reach callbacks: which of rclpy's executors runs, and how it is woken.

rclpy's own loop makes a list of everything that a node listens to, anew for each message, in
Python: some 0.5 ms before a camera's frame is in its callback. Its ``EventsExecutor`` is told by
the middleware what has come. rclpy calls it experimental.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.task import Future

from vla_retrieval.errors import InvalidInputError

EXECUTORS = ("auto", "events", "single_threaded")

_TRIED = (9, 1, 2), (10,)
"""Versions of rclpy, from the one on and below the other, that events were tried with: Kilted's."""

_AWAITS_FROM = {7: (7, 1, 11), 9: (9, 1, 2), 10: (10, 0, 1)}
"""The first of each major version whose ``EventsExecutor`` takes services that are coroutines, by
rclpy's changelogs (pull request 1478); those before fail at the first request."""

# Its `spin` and `spin_once` without a limit deliver nothing in some builds, with a core taken.
_AT_ONCE_SEC = 1.0


def new_spinner(kind: str = "auto", context: Context | None = None) -> Spinner:
    """Return what runs callbacks in the thread that calls ``spin``.

    Args:
        kind: One of ``EXECUTORS``; ``auto`` takes events where that was tried.
        context: Of the nodes; None is the default one.

    Raises:
        InvalidInputError: If this rclpy is not fit for that kind.
    """
    version = _version()
    if kind == "auto":
        kind = "events" if _TRIED[0] <= version < _TRIED[1] else "single_threaded"
    if kind == "single_threaded":
        return Spinner(SingleThreadedExecutor(context=context))
    if not _awaits(version):
        raise InvalidInputError(
            "executor", "auto or single_threaded, because the EventsExecutor of this rclpy"
            f" ({'.'.join(map(str, version)) or 'of unknown version'}) is not there or fails at"
            " services that are coroutines", kind,
        )  # fmt: skip
    return _EventsSpinner(_events_executor(context))


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
    from rclpy.experimental import EventsExecutor  # Humble has none

    return EventsExecutor(context=context)


def _awaits(version: tuple[int, ...]) -> bool:
    """Return whether that version's ``EventsExecutor`` takes services that are coroutines."""
    if not version or version[0] > max(_AWAITS_FROM):
        return bool(version)
    return version[0] in _AWAITS_FROM and version >= _AWAITS_FROM[version[0]]


def _version() -> tuple[int, ...]:
    """Return rclpy's version, or nothing where it does not tell."""
    try:
        text = importlib.metadata.version("rclpy")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(map(int, re.findall(r"\d+", text)[:3]))
