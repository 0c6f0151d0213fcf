"""The inference worker's jobs: those that wait, and the turn of the one in hand."""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vla_retrieval.errors import RetrievalError

_MOST_IN_A_ROW = 4
"""Jobs of higher priorities that may run while one waits longer than it should."""

_MOST_AHEAD = 8
"""Instructions in one batch: the first request waits for all of them."""

_BYTES_PER_MB = 1 << 20


class Priority(enum.IntEnum):
    """Who goes first: a planner that waits, then the live path, then what is to be remembered."""

    REQUEST = 0
    FRAME = 1
    INGEST = 2


PATIENCE_SEC = {Priority.REQUEST: 0.0, Priority.FRAME: 1.0, Priority.INGEST: 2.0}
"""How long a job stands back behind those of higher priorities. An image takes ten times as long
as a short question: where it had a turn after every few of these, more questions would come
meanwhile than went, and all would wait for seconds."""


class WorkerBusyError(Exception):
    """Too many jobs are waiting."""


class WorkerClosedError(Exception):
    """The worker was closed before the job ran."""


class WorkerStalledError(RetrievalError):
    """The thread that ran the job did not come back, or had to be shut out."""


@dataclass(frozen=True, eq=False)
class Job:
    """Something to be done in the inference thread; see `InferenceWorker.submit`."""

    run: Callable[[], None]
    give_up: Callable[[Exception], None]
    instruction: str
    kind: str
    size_bytes: int


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
        self._amid = ""
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

    def leave(self) -> None:
        """Say that the change is made, or failed."""
        with self._lock:
            self._amid = ""

    def shut_out(self, reason: str) -> str:
        """Let the thread change nothing any more; return what it is changing, or nothing."""
        with self._lock:
            self.reason = reason
            return self._amid


class Jobs:
    """Those that wait, bounded in number and size, and who is next. Not locked.

    Args:
        most: Jobs of one priority.
        most_bytes: Of frames, and of all others together.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._queues: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}
        self._since_sec: dict[Job, float] = {}
        self._passed_over = dict.fromkeys(Priority, 0)
        self._embedded: set[str] = set()

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._queues.values()))

    def of(self, priority: Priority) -> list[Job]:
        """Return those of a priority, the next one first."""
        return list(self._queues[priority])

    def put(self, job: Job, priority: Priority) -> None:
        """Let one wait.

        Raises:
            WorkerBusyError: If too many do already.
        """
        queue = self._queues[priority]
        if len(queue) >= self._most:
            raise WorkerBusyError(
                f"{len(queue)} requests are waiting already. Ask less often, or raise "
                "max_waiting_requests."
            )
        together = self._queues[Priority.FRAME] if priority is Priority.FRAME else self._requests()
        waiting_bytes = sum(other.size_bytes for other in together)
        if together and waiting_bytes + job.size_bytes > self._most_bytes:
            raise WorkerBusyError(
                f"{len(together)} waiting requests hold {waiting_bytes / _BYTES_PER_MB:.0f} MB, "
                f"and this one has {job.size_bytes / _BYTES_PER_MB:.0f} MB: expected at most "
                f"{self._most_bytes // _BYTES_PER_MB} MB together. Ask less often, send smaller "
                "images, or raise max_waiting_mb."
            )
        queue.append(job)
        self._since_sec[job] = time.monotonic()

    def discard(self, job: Job) -> None:
        """Take one back, if it waits."""
        for queue in self._queues.values():
            with contextlib.suppress(ValueError):
                queue.remove(job)
                del self._since_sec[job]

    def clear(self) -> list[Job]:
        """Take all of them back, and return them."""
        waiting = [job for queue in self._queues.values() for job in queue]
        for queue in self._queues.values():
            queue.clear()
        self._since_sec.clear()
        return waiting

    def take(self) -> Job:
        """Return the next one, which does not wait any more; there has to be one."""
        waiting = [priority for priority in Priority if self._queues[priority]]
        chosen = next(filter(self._is_overdue, waiting), waiting[0])
        for priority in Priority:
            if priority is chosen or priority not in waiting:
                self._passed_over[priority] = 0
            elif priority > chosen:
                self._passed_over[priority] += 1
        job = self._queues[chosen].popleft()
        del self._since_sec[job]
        return job

    def _requests(self) -> list[Job]:
        """Return what came by services, in the order of its priority."""
        return [*self._queues[Priority.REQUEST], *self._queues[Priority.INGEST]]

    def _is_overdue(self, priority: Priority) -> bool:
        """Return whether the first of a priority has stood back for long enough."""
        waited_sec = time.monotonic() - self._since_sec[self._queues[priority][0]]
        enough = self._passed_over[priority] >= _MOST_IN_A_ROW
        return enough and waited_sec >= PATIENCE_SEC[priority]

    def to_embed(self, instruction: str) -> list[str]:
        """Return the instructions to embed together, before the job of this one runs.

        None where that was done already, and this one alone where no other waits.
        """
        if instruction in self._embedded:
            return []
        others = (job.instruction for job in self._requests())
        together = list(dict.fromkeys([instruction, *filter(None, others)]))[:_MOST_AHEAD]
        self._embedded = set(together)
        return together
