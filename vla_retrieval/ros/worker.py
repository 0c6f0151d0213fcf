"""One thread that runs inference, so that no ROS callback ever waits for it.

Jobs of a lower priority number run first; equal ones in the order they came. The queue is
bounded: a robot that asks faster than it can be answered is told so, instead of getting older
and older answers.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)


class Priority(enum.IntEnum):
    """Who goes first."""

    REQUEST = 0
    FRAME = 1


class WorkerBusyError(Exception):
    """Too many jobs are waiting."""


class WorkerClosedError(Exception):
    """The worker was closed before the job ran."""


@dataclass(order=True)
class _Job:
    priority: int
    order: int
    run: Callable[[], None] = field(compare=False)
    give_up: Callable[[Exception], None] = field(compare=False)


class InferenceWorker:
    """Runs jobs one at a time in a thread of its own."""

    def __init__(self, max_waiting: int) -> None:
        """Start the thread.

        Args:
            max_waiting: Jobs that may wait at once, from 1 on.
        """
        self._max_waiting = max_waiting
        self._order = itertools.count()
        self._jobs: list[_Job] = []
        self._closed = False
        # Protects the three fields above; the thread sleeps on it while there is nothing to do.
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def submit(
        self,
        run: Callable[[], None],
        give_up: Callable[[Exception], None],
        priority: Priority = Priority.REQUEST,
    ) -> None:
        """Queue a job; returns at once.

        Args:
            run: Called in the worker's thread; reports its own result and its own errors.
            give_up: Called instead, with the reason, when the job will never run.
            priority: Who goes first.

        Raises:
            WorkerBusyError: If too many jobs are waiting.
            WorkerClosedError: If the worker has been closed.
        """
        with self._changed:
            if self._closed:
                raise WorkerClosedError("the inference worker is closed")
            if len(self._jobs) >= self._max_waiting:
                raise WorkerBusyError(
                    f"{len(self._jobs)} requests are waiting already. Ask less often, or raise "
                    "max_waiting_requests."
                )
            heapq.heappush(self._jobs, _Job(priority, next(self._order), run, give_up))
            self._changed.notify()

    def close(self) -> None:
        """Finish the job in hand, give up those that wait, and end the thread."""
        with self._changed:
            self._closed = True
            waiting, self._jobs = self._jobs, []
            self._changed.notify()
        for job in waiting:
            job.give_up(WorkerClosedError("the node is shutting down"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.run()
            except Exception as error:
                # A job reports its own errors; one that gets here is a defect, and must
                # neither end the thread nor leave a caller waiting.
                _log.exception("a job failed in the inference worker")
                job.give_up(error)

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return heapq.heappop(self._jobs) if self._jobs else None
