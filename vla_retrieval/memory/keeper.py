"""The thread that keeps a memory in order beside its users."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vla_retrieval.errors import StorageError

_log = logging.getLogger(__name__)


class Keeper:
    """Runs a job in a thread of its own whenever it was woken, one run at a time.

    A run that fails is logged and tried again at the next wake.

    Args:
        job: What to do; it returns when nothing is left to do.
        name: Of the thread.
    """

    def __init__(self, job: Callable[[], None], name: str) -> None:
        """Start the thread."""
        self._job = job
        self._changed = threading.Condition()  # protects what follows
        self._woken = False
        self._running = False
        self._stopping = False
        self.last_error = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be something to do."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    @property
    def stopping(self) -> bool:
        """Whether a run should end early."""
        return self._stopping

    def wait_until_idle(self, timeout_sec: float | None = None) -> bool:
        """Wait until nothing is left to do; return whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._stopping or not (self._woken or self._running), timeout_sec
            )

    def stop(self) -> None:
        """Let a run end early and wait for it. Safe to call twice."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._woken or self._stopping)
                if self._stopping:
                    return
                self._woken, self._running = False, True
            try:
                self._job()
                self.last_error = ""
            except StorageError as error:
                self.last_error = str(error)
                _log.warning("%s", error)
            except Exception as error:  # the memory goes on with what it has
                self.last_error = str(error)
                _log.exception("keeping the memory in order failed; the next change tries again")
            finally:
                with self._changed:
                    self._running = False
                    self._changed.notify_all()
