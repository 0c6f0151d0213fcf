"""Two inference threads side by side: one for pictures, one for everything else.

To embed a picture takes several times as long as to embed a question and to search for it. In one
thread a planner's question waits for the frame in hand, at every frame of a camera that never
stops; in two they share the processor or the GPU, and the question takes a little longer than
alone. The picture's thread stands back where both want one core, and OpenVINO's picture stops for a
question between the parts of its tower (`right_of_way.py`). Calls that need no model at all, such
as ``~/get_stats``, are with the questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from vla_retrieval.ros.jobs import MOST_AHEAD, Job
from vla_retrieval.ros.watchdog import Watchdog
from vla_retrieval.ros.worker import InferenceWorker

_PICTURES_NICENESS = 5
"""How far the thread for pictures stands back, in steps of `nice`. Beside a process that takes one
of two cores, a question is embedded in 5.5 ms (p50; p99 13 to 17) with 5 steps and in 9 ms (p99 27)
with 2, and pictures are as quick; with both cores taken, pictures take 100 ms and 64 (p50). With 10
steps they take 260 ms then (p90). ViT-B-32 in bf16."""

_MOST_WITH_PICTURES = 2 * MOST_AHEAD
"""Inputs of eight pairs to remember."""


class Lanes:
    """Runs jobs in two threads, and replaces one that does not come back.

    Attributes:
        pictures: Embeds the pictures of frames and of requests, and does what follows from them.
        words: Does what needs no picture.
    """

    def __init__(
        self,
        max_waiting: int,
        max_waiting_bytes: int,
        stall_sec: float,
        embed_ahead: Callable[[Sequence[Any]], object],
        *,
        pictures_ahead: bool = False,
    ) -> None:
        """Start the threads, and those that watch them.

        Args:
            max_waiting: As for `InferenceWorker`, in each of the two.
            max_waiting_bytes: The same.
            stall_sec: Longest time at one job.
            embed_ahead: As for `InferenceWorker`, for those without pictures.
            pictures_ahead: Whether for those with pictures, too. That is for a GPU. A CPU takes as
                long for four pictures together as one by one (ViT-B-32 in bf16, OpenVINO: 28 ms
                each instead of 30), so that the first would wait for all; and a question would
                wait for their instructions to leave the tower.
        """
        self.pictures = InferenceWorker(
            max_waiting, embed_ahead if pictures_ahead else None, max_waiting_bytes,
            most_ahead=_MOST_WITH_PICTURES, name="pictures", niceness=_PICTURES_NICENESS,
        )  # fmt: skip
        self.words = InferenceWorker(max_waiting, embed_ahead, max_waiting_bytes, name="words")
        self._workers = (self.pictures, self.words)
        now_sec = time.monotonic()
        self._watchdogs = [Watchdog(worker, stall_sec, now_sec) for worker in self._workers]
        for watchdog in self._watchdogs:
            watchdog.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait, those in hand left out."""
        return sum(worker.waiting for worker in self._workers)

    @property
    def replaced(self) -> int:
        """How often a thread was replaced."""
        return sum(worker.replaced for worker in self._workers)

    @property
    def stuck(self) -> int:
        """How many threads were shut out and have not ended."""
        return sum(worker.stuck for worker in self._workers)

    @property
    def reasons(self) -> str:
        """Why a thread was replaced the last time, for each of the two; mostly nothing."""
        return "; ".join(
            f"{worker.name}: {worker.last_reason}" for worker in self._workers if worker.last_reason
        )

    def judge(self, now_sec: float) -> list[str]:
        """Return what is wrong with the threads, with the next step; mostly nothing."""
        return list(filter(None, (watchdog.judge(now_sec) for watchdog in self._watchdogs)))

    def of(self, *, has_picture: bool) -> InferenceWorker:
        """Return who does a job."""
        return self.pictures if has_picture else self.words

    def withdraw(self, job: Job) -> None:
        """Take back a job that waits; one that runs or has run is not touched."""
        for worker in self._workers:
            worker.withdraw(job)

    def close(self, within_sec: float) -> bool:
        """Finish the jobs in hand, give up those that wait, and end the threads.

        Args:
            within_sec: Longest wait for the jobs in hand, which are shut out then.

        Returns:
            Whether no thread is left.
        """
        for watchdog in self._watchdogs:
            watchdog.stop()
        end_sec = time.monotonic() + within_sec
        # No short cut: both have to be closed.
        ended = [worker.close(max(0.0, end_sec - time.monotonic())) for worker in self._workers]
        return all(ended)
