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

_own = threading.local()


def stand_back(niceness: int) -> None:
    """Let other threads go first from now on; for the calling thread, and those that it starts.

    Args:
        niceness: How far it stands back where the cores are few, in steps of `nice`; Linux only.
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
        self._going_first = 0
        self._changed = threading.Condition()  # protects the number

    @contextmanager
    def going_first(self) -> Iterator[None]:
        """Do quick work in this block; a thread that stands back lets others end theirs before."""
        if getattr(_own, "stands_back", False):
            self.give_way(LONGEST_WAIT_SEC)
            yield
            return
        with self._changed:
            self._going_first += 1
        _own.goes_first = True
        try:
            yield
        finally:
            _own.goes_first = False
            with self._changed:
                self._going_first -= 1
                self._changed.notify_all()

    def give_way(self, longest_sec: float) -> float:
        """Wait until nobody goes first, or as long as given; for slow work, between its parts.

        Who goes first does not wait.

        Returns:
            How long that was, in seconds.
        """
        # Without the lock: mostly nobody goes first.
        if not self._going_first or longest_sec <= 0 or getattr(_own, "goes_first", False):
            return 0.0
        started = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._going_first, longest_sec)
        return time.monotonic() - started
