"""A lock that many readers or one writer hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType


class SharedLock:
    """Readers share it, a writer has it alone; a waiting writer goes before new readers.

    A thread that holds it must not ask for it again.
    """

    def __init__(self) -> None:
        """Start free."""
        self._changed = threading.Condition()
        self._readers = 0
        self._writers_waiting = 0
        self._writing = False

    def shared(self) -> AbstractContextManager[None]:
        """Hold it together with other readers."""
        return _Sharing(self)

    def acquire_shared(self) -> None:
        """Begin to share it; ``release_shared`` has to follow."""
        with self._changed:
            if self._writing or self._writers_waiting:
                self._changed.wait_for(lambda: not self._writing and not self._writers_waiting)
            self._readers += 1

    def release_shared(self) -> None:
        """Give back one share."""
        with self._changed:
            self._readers -= 1
            if self._writers_waiting and not self._readers:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold it alone."""
        with self._changed:
            self._writers_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._writers_waiting -= 1
                if not self._writing:  # cut off: who waits for this writer has nothing to wait for
                    self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()


class _Sharing:
    """What ``SharedLock.shared`` returns. A class: a generator costs each search a microsecond."""

    __slots__ = ("_lock",)

    def __init__(self, lock: SharedLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.acquire_shared()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._lock.release_shared()
