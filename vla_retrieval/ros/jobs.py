"""The inference worker's jobs: those that wait, and the turn of the one in hand."""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from vla_retrieval.errors import RetrievalError

MOST_AHEAD = 8
"""Instructions in one batch: the first request waits for all of them."""

_BYTES_PER_MB = 1 << 20


class Priority(enum.IntEnum):
    """Who goes first: a planner that waits, then the live path, then what is to be remembered."""

    REQUEST = 0
    FRAME = 1
    INGEST = 2


_REQUESTS_IN_A_ROW = 4
"""Requests that may run while others wait."""


class WorkerBusyError(Exception):
    """Too many jobs are waiting."""


class WorkerClosedError(Exception):
    """The worker was closed before the job ran."""


class WorkerStalledError(RetrievalError):
    """The thread that ran the job did not come back, or had to be shut out."""


@dataclass(frozen=True, eq=False)
class Job:
    """Something to be done in an inference thread; see `InferenceWorker.submit`."""

    run: Callable[[], None]
    give_up: Callable[[Exception], None]
    inputs: tuple[Hashable, ...]
    kind: str
    size_bytes: int
    priority: Priority


class Turn:
    """One job in the hand of one thread.

    Attributes:
        job: The job.
        number: Counts the turns of a worker, from 1 on.
        reason: Why the thread was shut out, or nothing.
    """

    def __init__(self, job: Job, number: int) -> None:
        """Begin now."""
        self.job = job
        self.number = number
        self.reason = ""
        self._amid = self._made = ""
        self._since_sec = time.monotonic()
        # Decides who is first: a thread that begins to change something, or who shuts it out.
        self._lock = threading.Lock()

    def age_sec(self) -> float:
        """Return how long ago it began, in seconds."""
        return time.monotonic() - self._since_sec

    def enter(self, what: str) -> None:
        """Begin to change what others see.

        Raises:
            WorkerStalledError: If the thread was shut out.
        """
        with self._lock:
            if self.reason:
                raise WorkerStalledError(f"given up because {self.reason}")
            self._amid = what

    def leave(self, *, made: bool) -> None:
        """Say whether the change is made, or failed."""
        with self._lock:
            if made:
                self._made = self._amid
            self._amid = ""

    def shut_out(self, reason: str) -> str:
        """Let the thread change nothing any more.

        Returns:
            What became of what it changes, as a sentence, or nothing where it changed nothing.
        """
        with self._lock:
            self.reason = reason
            if self._amid:
                return f"It stalled while {self._amid}, and whether that was done is not known."
            return f"It stalled after {self._made}: that is done." if self._made else ""


class Jobs:
    """Those that wait, bounded in number and size, and who is next. Not locked.

    Args:
        most: Jobs of one priority.
        most_bytes: Of frames, and of all others together.
        most_ahead: Instructions and pictures that are embedded together.
    """

    def __init__(self, most: int, most_bytes: int, most_ahead: int = MOST_AHEAD) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._most_ahead = most_ahead
        self._queues: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}
        self._requests_in_a_row = 0
        # What frames and pairs have had since both wait, and whether they did at the last turn.
        self._both_wait = False
        self._had_sec = dict.fromkeys((Priority.FRAME, Priority.INGEST), 0.0)
        self._ahead: set[Job] = set()  # of those that wait: their inputs were embedded

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._queues.values()))

    def before_a_request(self) -> list[Job]:
        """Return those that run before a request would that came now, in order.

        What is not there yet is left out, such as the look at a frame that is still to come.
        """
        requests, frames, pairs = (deque(self._queues[priority]) for priority in Priority)
        before = []
        in_a_row = self._requests_in_a_row
        for request in (*requests, None):
            if (frames or pairs) and in_a_row >= _REQUESTS_IN_A_ROW:
                before.append(self._of_others(frames, pairs).popleft())
                in_a_row = 0
            in_a_row = in_a_row + 1 if frames or pairs else 0
            if request is not None:
                before.append(request)
        return before

    def put(self, job: Job) -> None:
        """Let one wait.

        Raises:
            WorkerBusyError: If too many do already.
        """
        queue = self._queues[job.priority]
        if len(queue) >= self._most:
            raise WorkerBusyError(
                f"{len(queue)} requests are waiting already. Ask less often, or raise "
                "max_waiting_requests."
            )
        together = queue if job.priority is Priority.FRAME else self._requests()
        waiting_bytes = sum(other.size_bytes for other in together)
        if together and waiting_bytes + job.size_bytes > self._most_bytes:
            raise WorkerBusyError(
                f"{len(together)} waiting requests hold {waiting_bytes / _BYTES_PER_MB:.0f} MB, "
                f"and this one has {job.size_bytes / _BYTES_PER_MB:.0f} MB: expected at most "
                f"{self._most_bytes // _BYTES_PER_MB} MB together. Ask less often, send smaller "
                "images, or raise max_waiting_mb."
            )
        queue.append(job)

    def discard(self, job: Job) -> None:
        """Take one back, if it waits."""
        self._ahead.discard(job)
        for queue in self._queues.values():
            with contextlib.suppress(ValueError):
                queue.remove(job)

    def clear(self) -> list[Job]:
        """Take all of them back, and return them."""
        waiting = [job for queue in self._queues.values() for job in queue]
        for queue in self._queues.values():
            queue.clear()
        self._ahead.clear()
        return waiting

    def take(self) -> Job:
        """Return the next one, which does not wait any more; there has to be one."""
        requests, frames, pairs = (self._queues[priority] for priority in Priority)
        self._both_wait = bool(frames and pairs)
        if not self._both_wait:
            self._had_sec = dict.fromkeys(self._had_sec, 0.0)
        others = frames or pairs
        if requests and not (others and self._requests_in_a_row >= _REQUESTS_IN_A_ROW):
            self._requests_in_a_row = self._requests_in_a_row + 1 if others else 0
            return requests.popleft()
        self._requests_in_a_row = 0
        return self._of_others(frames, pairs).popleft()

    def note(self, job: Job, seconds: float) -> None:
        """Note how long a job took, for who has the next turn."""
        if self._both_wait and job.priority in self._had_sec:
            self._had_sec[job.priority] += seconds

    def _of_others(self, frames: deque[Job], pairs: deque[Job]) -> deque[Job]:
        """Return whose turn it is where no request has it; one of the two waits."""
        if pairs and self._had_sec[Priority.INGEST] < self._had_sec[Priority.FRAME]:
            return pairs
        return frames or pairs

    def _requests(self) -> list[Job]:
        """Return what came by services, in the order of its priority."""
        return [*self._queues[Priority.REQUEST], *self._queues[Priority.INGEST]]

    def to_embed(self, job: Job) -> list[Hashable]:
        """Return what to embed together before a job runs, its own first.

        Nothing where that was done already, and where nothing else waits to be embedded. Called
        for each job that was taken.
        """
        if job in self._ahead:
            self._ahead.remove(job)
            return []
        together = dict.fromkeys(job.inputs)
        waiting = (other for priority in Priority for other in self._queues[priority])
        for other in waiting:
            if other in self._ahead or not other.inputs:
                continue
            more = {**together, **dict.fromkeys(other.inputs)}
            if len(more) > self._most_ahead:
                break
            together = more
            self._ahead.add(other)
        return list(together) if len(together) > len(job.inputs) else []
