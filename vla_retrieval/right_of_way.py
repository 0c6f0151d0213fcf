"""Who is quick goes before who is slow, where both would share the cores."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LONGEST_WAIT_SEC = 0.1
"""That one piece of slow work waits in all."""

_QUICK_SEC = 2.0  # who takes longer is stuck, or not quick

_own = threading.local()


def stand_back(niceness: int) -> None:
    """Let other threads go first from now on, in the calling thread.

    Args:
        niceness: How far it, and the threads that it starts, stand back where the cores are few, in
            steps of `nice`; Linux only.
    """
    _own.stands_back = True
    # Elsewhere the number of a thread is not that of a process, as setpriority(2) has it for Linux.
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it, and the thread works as well without
            os.setpriority(
                os.PRIO_PROCESS,
                threading.get_native_id(),
                os.getpriority(os.PRIO_PROCESS, 0) + niceness,
            )


class RightOfWay:
    """Lets slow work that is done in parts stop between them while quick work is done.

    Safe under concurrent calls.
    """

    def __init__(self) -> None:
        self._begun: dict[object, float] = {}  # of those who go first, by the monotonic clock
        self._changed = threading.Condition()  # protects it

    @contextmanager
    def going_first(self) -> Iterator[None]:
        """Do quick work in this block; a thread that stands back lets others end theirs before."""
        if getattr(_own, "stands_back", False):
            self.give_way(LONGEST_WAIT_SEC)
            yield
            return
        me, before = object(), getattr(_own, "goes_first", False)
        try:
            with self._changed:
                self._begun[me] = time.monotonic()
            _own.goes_first = True
            yield
        finally:
            _own.goes_first = before
            with self._changed:
                self._begun.pop(me, None)
                self._changed.notify_all()

    def give_way(self, longest_sec: float) -> float:
        """Wait until nobody goes first, or as long as given; for slow work, between its parts.

        Who goes first does not wait, and nobody waits for who does not come back.

        Returns:
            How long that was, in seconds.
        """
        # Without the lock: mostly nobody goes first.
        if not self._begun or longest_sec <= 0 or getattr(_own, "goes_first", False):
            return 0.0
        started = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_awaited(), longest_sec)
        return time.monotonic() - started

    def _is_awaited(self) -> bool:
        latest = time.monotonic() - _QUICK_SEC
        return any(begun > latest for begun in self._begun.values())
