"""One thread that runs inference, so that no ROS callback ever waits for it.

Requests run before frames and before pairs that are to be remembered, but for every fifth turn
where one of these waits, so that a flood of requests does not blind the live path. Frames and pairs
share the time that is left, whatever each of them takes: a camera never stops, and pairs of the
frame that was just embedded take next to none. Equal ones run in the order they came. Queues are
bounded: a robot that asks faster than it can be answered is told so, instead of getting older and
older answers. What jobs that wait together have embedded can be embedded together, which costs
nothing while there is only one.

A thread that does not come back from its job can be replaced (`InferenceWorker.replace`), which
`watchdog.py` does. Python cannot end a thread, so the old one is only shut out: what it does to
others, it does inside `effect`, and that is closed to it from then on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from vla_retrieval.right_of_way import stand_back
from vla_retrieval.ros.jobs import (
    MOST_AHEAD,
    Job,
    Jobs,
    Priority,
    Turn,
    WorkerBusyError,
    WorkerClosedError,
    WorkerStalledError,
)

__all__ = [
    "InferenceWorker",
    "Priority",
    "WorkerBusyError",
    "WorkerClosedError",
    "WorkerStalledError",
    "effect",
]

_log = logging.getLogger(__name__)

MOST_STUCK = 3
"""Threads that may be shut out and not have ended: each keeps what it holds."""


_CLOSING = "the node is cleaned up or shut down"
_CLOSED = f"{_CLOSING}: nothing was changed"


# What each thread works on; a thread that was shut out still finds its own turn.
_own = threading.local()


@contextmanager
def effect(what: str) -> Iterator[None]:
    """Run a block that changes what others see; for jobs, in the thread that runs them.

    A thread that was replaced meanwhile does not enter, and one that is inside is not taken
    for one that never was there: whoever waits is told that the outcome is not known.

    Args:
        what: Is done in the block, for that message.

    Raises:
        WorkerStalledError: If the thread was replaced.
    """
    turn: Turn = _own.turn
    turn.enter(what)
    made = False
    try:
        yield
        made = True
    finally:
        turn.leave(made=made)


class InferenceWorker:
    """Runs jobs one at a time in a thread of its own.

    Attributes:
        name: What its jobs are about, for messages.
        replaced: How often the thread was replaced.
        last_reason: Why it was the last time, or nothing.
    """

    def __init__(
        self,
        max_waiting: int,
        embed_ahead: Callable[[Sequence[Any]], object] | None = None,
        max_waiting_bytes: int = 1 << 62,
        *,
        most_ahead: int = MOST_AHEAD,
        name: str = "",
        niceness: int = 0,
    ) -> None:
        """Start the thread.

        Args:
            max_waiting: Jobs of one priority that may wait at once, from 1 on.
            embed_ahead: Called in the thread with the inputs of several waiting jobs before the
                first of them runs; what it returns is not used, so it has to keep the embeddings
                where the jobs find them.
            max_waiting_bytes: Most that frames, and that all other jobs together, may hold while
                they wait; one may always wait.
            most_ahead: Inputs that it is called with at once.
            name: What its jobs are about, for messages.
            niceness: How far its threads, and those that they start, stand back behind the rest
                of the process where the cores are few, in steps of `nice`; on Linux only.
        """
        self.name = name
        self._niceness = niceness
        self._embed_ahead = embed_ahead
        self._jobs = Jobs(max_waiting, max_waiting_bytes, most_ahead)
        self._closed = False
        self._turns = 0
        self._turn: Turn | None = None  # of the job in hand
        self._stuck: list[threading.Thread] = []
        self.replaced = 0
        self.last_reason = ""
        # Protects all of the above; the thread sleeps on it while there is nothing to do.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._start()

    @property
    def waiting(self) -> int:
        """How many jobs wait, the one in hand left out."""
        with self._changed:
            return len(self._jobs)

    @property
    def turn(self) -> int:
        """Number of the job in hand, from 1 on, or 0 while there is none."""
        with self._changed:
            return self._turn.number if self._turn else 0

    @property
    def stuck(self) -> int:
        """How many threads were shut out and have not ended."""
        with self._changed:
            return self._count_stuck()

    @property
    def has_died(self) -> bool:
        """Whether the thread ended without being told to."""
        with self._changed:
            return not self._closed and self._thread is not None and not self._thread.is_alive()

    def in_front(self) -> list[tuple[str, float]]:
        """Return the kinds of the jobs that a new request has to wait for.

        Returns:
            Each with how long it has been running: the one in hand first, then those that wait
            with 0. Each fifth is a frame or a pair, where such wait.
        """
        with self._changed:
            hand = [(self._turn.job.kind, self._turn.age_sec())] if self._turn else []
            return hand + [(job.kind, 0.0) for job in self._jobs.before_a_request()]

    def submit(
        self,
        run: Callable[[], None],
        give_up: Callable[[Exception], None],
        priority: Priority = Priority.REQUEST,
        inputs: tuple[Hashable, ...] = (),
        *,
        kind: str = "",
        size_bytes: int = 0,
    ) -> Job:
        """Queue a job; returns at once.

        Args:
            run: Called in the worker's thread; reports its own result and its own errors.
            give_up: Called instead, with the reason, when the job will never run, or does not
                come to an end.
            priority: Who goes first.
            inputs: What the job will have embedded.
            kind: Of the job, for who estimates how long it takes.
            size_bytes: About how much it holds while it waits.

        Raises:
            WorkerBusyError: If too many jobs are waiting.
            WorkerStalledError: If too many threads are stuck to start another one.
            WorkerClosedError: If the worker has been closed.
        """
        with self._changed:
            if self._closed:
                raise WorkerClosedError("the inference worker is closed")
            if self._thread is None:
                raise self._given_up()
            job = Job(run, give_up, inputs, kind, size_bytes, priority)
            self._jobs.put(job)
            self._changed.notify()
            return job

    def withdraw(self, job: Job) -> None:
        """Take back a job that waits; one that runs or has run is not touched."""
        with self._changed:
            self._jobs.discard(job)

    def replace(self, reason: str, turn: int | None = None) -> bool:
        """Shut the thread out, answer for its job, and let a new one go on with those that wait.

        After `MOST_STUCK` threads that have not ended, there is no new one until one of them
        has: those that wait are given up, and new ones are refused.

        Args:
            reason: As a clause for people.
            turn: Number of the job that it is about, as ``turn`` said; nothing is done where
                another one is in hand by now, or none. None: whatever is in hand.

        Returns:
            Whether the thread was shut out.
        """
        with self._changed:
            if self._closed or self._thread is None:
                return False
            in_hand = self._turn
            if turn is not None and (in_hand is None or in_hand.number != turn):
                return False
            self.replaced += 1
            self.last_reason = reason
            self._turn = None
            outcome = in_hand.shut_out(reason) if in_hand else ""
            self._stuck.append(self._thread)
            self._thread = None
            self._changed.notify_all()  # the old one may be waiting for a job
            waiting: list[Job] = []
            if self._count_stuck() < MOST_STUCK:
                with suppress(RuntimeError):  # no thread is to be had: `go_on` tries again
                    self._start()
            else:
                waiting = self._jobs.clear()
            given_up = self._given_up()
        if in_hand is not None:
            in_hand.job.give_up(WorkerStalledError(_stalled(reason, outcome)))
        for job in waiting:
            job.give_up(given_up)
        return True

    def go_on(self) -> None:
        """Start a thread if there is none and one of those that were stuck has ended.

        Raises:
            RuntimeError: If no thread is to be had.
        """
        with self._changed:
            if not self._closed and self._thread is None and self._count_stuck() < MOST_STUCK:
                self._start()

    def close(self, within_sec: float | None = None) -> bool:
        """Finish the job in hand, give up those that wait, and end the thread.

        Args:
            within_sec: Longest wait for the job in hand, which is shut out then; None: no limit.

        Returns:
            Whether no thread is left.
        """
        with self._changed:
            self._closed = True
            waiting = self._jobs.clear()
            thread = self._thread
            self._changed.notify_all()
        for job in waiting:
            job.give_up(WorkerClosedError(_CLOSED))
        if thread is not None and threading.current_thread() is not thread:
            thread.join(within_sec)
        with self._changed:
            turn = self._turn
            ended = not self._count_stuck() and (thread is None or not thread.is_alive())
            outcome = turn.shut_out(_CLOSING) if turn is not None and not ended else ""
        if turn is not None and not ended:
            turn.job.give_up(
                WorkerStalledError(_stalled(_CLOSING, outcome))
                if outcome
                else WorkerClosedError(_CLOSED)
            )
        return ended

    def _start(self) -> None:
        name = f"inference {self.name}".strip()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            raise

    def _count_stuck(self) -> int:
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        return len(self._stuck)

    def _given_up(self) -> WorkerStalledError:
        return WorkerStalledError(
            f"inference is stuck: {MOST_STUCK} threads in a row did not come back, the last one "
            f"because {self.last_reason}. Look at the device and the disk; clean up and configure "
            "the node anew, or start it anew."
        )

    def _work(self) -> None:
        if self._niceness:
            stand_back(self._niceness)
        while (turn := self._next()) is not None:
            _own.turn = turn
            self._embed(turn)
            if turn.reason:
                return
            try:
                turn.job.run()
            except Exception as error:
                # A job reports its own errors; one that gets here is a defect, and must
                # neither end the thread nor leave a caller waiting.
                _log.exception("a job failed in the inference worker")
                turn.job.give_up(error)

    def _next(self) -> Turn | None:
        """Return the next turn, or None where this thread is to end."""
        me = threading.current_thread()
        with self._changed:
            if self._thread is me and self._turn is not None:
                self._jobs.note(self._turn.job, self._turn.age_sec())
                self._turn = None
            self._changed.wait_for(
                lambda: self._closed or self._thread is not me or len(self._jobs) > 0
            )
            if self._closed or self._thread is not me:
                return None
            self._turns += 1
            self._turn = Turn(self._jobs.take(), self._turns)
            return self._turn

    def _embed(self, turn: Turn) -> None:
        """Embed the job's inputs together with those that wait, if any do."""
        if self._embed_ahead is None or not turn.job.inputs:
            return
        with self._changed:
            together = self._jobs.to_embed(turn.job)
        if not together:
            return
        try:
            self._embed_ahead(together)
        except Exception as error:
            # One of them is malformed, or the model failed: each job finds that out by itself.
            _log.debug("inputs were not embedded together: %s", error)


def _stalled(reason: str, outcome: str) -> str:
    """Return what the caller of a job is told whose thread was replaced."""
    return (
        f"this request was given up because {reason}. "
        f"{outcome or 'Nothing was changed: ask again.'} "
        "Where that repeats, look at the device and the disk, or raise worker_stall_sec."
    )
