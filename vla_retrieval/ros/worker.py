"""One thread that runs inference, so that no ROS callback ever waits for it.

Requests run before frames, and equal ones in the order they came; a frame that waits has its turn
after four requests, so that a flood of requests does not blind the live path. Queues are bounded: a
robot that asks faster than it can be answered is told so, instead of getting older and older
answers. Instructions of requests that wait together are embedded together, which costs nothing
while there is only one.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_log = logging.getLogger(__name__)

_MOST_IN_A_ROW = 4
"""Requests that may run one after the other while a frame waits."""

_MOST_AHEAD = 8
"""Instructions in one batch: the first request waits for all of them."""


class Priority(enum.IntEnum):
    """Who goes first."""

    REQUEST = 0
    FRAME = 1


class WorkerBusyError(Exception):
    """Too many jobs are waiting."""


class WorkerClosedError(Exception):
    """The worker was closed before the job ran."""


@dataclass(frozen=True)
class _Job:
    run: Callable[[], None]
    give_up: Callable[[Exception], None]
    instruction: str


class InferenceWorker:
    """Runs jobs one at a time in a thread of its own."""

    def __init__(
        self, max_waiting: int, embed_ahead: Callable[[Sequence[str]], object] | None = None
    ) -> None:
        """Start the thread.

        Args:
            max_waiting: Jobs of one priority that may wait at once, from 1 on.
            embed_ahead: Called in the thread with the instructions of several waiting requests
                before the first of them runs; what it returns is not used, so it has to keep
                the embeddings where the jobs find them.
        """
        self._max_waiting = max_waiting
        self._embed_ahead = embed_ahead
        self._jobs: dict[Priority, deque[_Job]] = {priority: deque() for priority in Priority}
        self._closed = False
        # Used by the thread alone.
        self._in_a_row = 0
        self._embedded: set[str] = set()
        # Protects the queues and _closed; the thread sleeps on it while there is nothing to do.
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait, the one in hand left out."""
        with self._changed:
            return sum(map(len, self._jobs.values()))

    def submit(
        self,
        run: Callable[[], None],
        give_up: Callable[[Exception], None],
        priority: Priority = Priority.REQUEST,
        instruction: str = "",
    ) -> None:
        """Queue a job; returns at once.

        Args:
            run: Called in the worker's thread; reports its own result and its own errors.
            give_up: Called instead, with the reason, when the job will never run.
            priority: Who goes first.
            instruction: What the job will have embedded, or nothing.

        Raises:
            WorkerBusyError: If too many jobs are waiting.
            WorkerClosedError: If the worker has been closed.
        """
        with self._changed:
            if self._closed:
                raise WorkerClosedError("the inference worker is closed")
            queue = self._jobs[priority]
            if len(queue) >= self._max_waiting:
                raise WorkerBusyError(
                    f"{len(queue)} requests are waiting already. Ask less often, or raise "
                    "max_waiting_requests."
                )
            queue.append(_Job(run, give_up, instruction))
            self._changed.notify()

    def close(self) -> None:
        """Finish the job in hand, give up those that wait, and end the thread."""
        with self._changed:
            self._closed = True
            waiting = [job for queue in self._jobs.values() for job in queue]
            for queue in self._jobs.values():
                queue.clear()
            self._changed.notify()
        for job in waiting:
            job.give_up(WorkerClosedError("the node is shutting down"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._embed(job)
            try:
                job.run()
            except Exception as error:
                # A job reports its own errors; one that gets here is a defect, and must
                # neither end the thread nor leave a caller waiting.
                _log.exception("a job failed in the inference worker")
                job.give_up(error)

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._jobs.values()))
            requests, frames = self._jobs[Priority.REQUEST], self._jobs[Priority.FRAME]
            if frames and (not requests or self._in_a_row >= _MOST_IN_A_ROW):
                self._in_a_row = 0
                return frames.popleft()
            if requests:
                self._in_a_row = self._in_a_row + 1 if frames else 0
                return requests.popleft()
            return None

    def _embed(self, job: _Job) -> None:
        """Embed the job's instruction together with those that wait, if any do."""
        if self._embed_ahead is None or not job.instruction or job.instruction in self._embedded:
            return
        with self._changed:
            others = [other.instruction for other in self._jobs[Priority.REQUEST]]
        together = list(dict.fromkeys([job.instruction, *filter(None, others)]))[:_MOST_AHEAD]
        self._embedded = set(together)
        if len(together) == 1:
            return
        try:
            self._embed_ahead(together)
        except Exception as error:
            # One of them is malformed, or the model failed: each job finds that out by itself.
            _log.debug("instructions were not embedded together: %s", error)
