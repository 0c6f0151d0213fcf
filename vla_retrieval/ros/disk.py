"""The disk under the memory may not come back: who asks it anything must not be the executor.

A network share whose server is gone, a card that fails, a file system that is frozen: a call waits
in the kernel then, and cannot be ended. So the memory is looked at from a thread of its own, short
errands have a limit, and nobody begins to write behind a change that is still waiting.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import MemoryStats
from vla_retrieval.memory.names import SNAPSHOT_NAME

_log = logging.getLogger(__name__)

PATIENCE_SEC = 5.0
"""After which a disk counts as one that does not come back: a busy card takes a second or two."""

FIRST_PATIENCE_SEC = 30.0
"""The same before it has answered at all: it may have to be woken or mounted."""

_Result = TypeVar("_Result")


def try_disk(directory: Path) -> None:
    """Write to the file system of a directory, and wait for that: it hangs where opening would.

    What refuses it is left for opening, which says why.

    Args:
        directory: It may be missing.
    """
    with suppress(OSError):
        there = next(path for path in (directory, *directory.parents) if path.is_dir())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())


class DiskUsage(Protocol):
    """What ``shutil.disk_usage`` returns: bytes of a file system."""

    @property
    def total(self) -> int:
        """Of the whole file system."""

    @property
    def free(self) -> int:
        """That may still be written."""


@dataclass(frozen=True)
class Look:
    """What was seen of a memory and its disk at one time.

    Attributes:
        directory: Of the memory.
        stats: Of the memory, or None where it could not be read.
        usage: Of the file system, or None with that.
        writable: Whether this process may write to the directory.
        snapshot_age_sec: How old the snapshot of the index was, in seconds, or None without one.
        error: Why not, or nothing.
        lost: Why the memory is not where it was opened, or nothing.
    """

    directory: Path
    stats: MemoryStats | None = None
    usage: DiskUsage | None = None
    writable: bool = True
    snapshot_age_sec: float | None = None
    error: str = ""
    lost: str = ""


class MemoryLostError(StorageError):
    """The memory is not where it was opened, or cannot be used any more: it has to be closed."""


class DiskWatch:
    """Looks at a memory again and again, in a thread of its own.

    Args:
        directory: Of the memory.
        stats: Reads its statistics.
        check_place: Raises a MemoryLostError where the memory is not where it was opened, and
            another StorageError where that cannot be told.
        period_sec: From one look to the next.
    """

    def __init__(
        self, directory: Path, stats: Callable[[], MemoryStats], check_place: Callable[[], None],
        period_sec: float,
    ) -> None:  # fmt: skip
        """Look once, and start the thread."""
        self._directory = directory
        self._stats = stats
        self._check_place = check_place
        self._period_sec = period_sec
        self._since_sec: float | None = None  # when the look in hand began
        self._stopped = threading.Event()
        self.latest = self._look()
        self._thread = threading.Thread(target=self._run, name="disk watch", daemon=True)
        self._thread.start()

    @property
    def waiting_sec(self) -> float:
        """How long the look in hand has been waiting for the disk, or 0 without one."""
        since_sec = self._since_sec
        return 0.0 if since_sec is None else time.monotonic() - since_sec

    def stop(self) -> None:
        """Look no more. A look that does not come back is left behind."""
        self._stopped.set()
        self._thread.join(PATIENCE_SEC)

    def _run(self) -> None:
        while not self._stopped.wait(self._period_sec):
            self._since_sec = time.monotonic()
            self.latest = self._look()
            self._since_sec = None

    def _look(self) -> Look:
        directory, lost = self._directory, ""
        try:
            try:
                self._check_place()
            except MemoryLostError as error:
                lost = str(error)
            return Look(
                directory, self._stats(), shutil.disk_usage(directory),
                os.access(directory, os.W_OK), _age_sec(directory / SNAPSHOT_NAME), lost=lost,
            )  # fmt: skip
        except (StorageError, OSError) as error:  # for example, somebody removed the directory
            return Look(directory, error=str(error), lost=lost)
        except Exception as error:  # such as want of RAM: who watches has to go on
            _log.exception("cannot look at %s", directory)
            return Look(directory, error=f"cannot look at {directory}: {error!r}", lost=lost)


def _age_sec(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None


class WriteGate:
    """Lets one change at a time go to the disk, and nobody wait behind one that stays there.

    Without it, each inference thread that stores something would get stuck in its turn, until there
    is none left for queries, which may well be answered.

    Args:
        directory: Of the memory, for messages.
        patience_sec: After which a change counts as one that stays.
    """

    def __init__(self, directory: Path, patience_sec: float = PATIENCE_SEC) -> None:
        self._directory = directory
        self._patience_sec = patience_sec
        self._since_sec: float | None = None  # when the change inside began
        self._changed = threading.Condition()  # protects it

    @property
    def stuck_sec(self) -> float:
        """How long a change has been on its way that counts as one that stays, else 0."""
        with self._changed:
            return self._stuck_sec()

    def check(self) -> None:
        """Check that a change has a chance.

        Raises:
            StorageError: If an earlier one is stuck.
        """
        with self._changed:
            self._check()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Run a block that writes to the disk, when the one before has come back.

        Raises:
            StorageError: If that does not; then the block is not run.
        """
        with self._changed:
            while self._since_sec is not None:
                self._check()
                left_sec = self._since_sec + self._patience_sec - time.monotonic()
                self._changed.wait(max(0.0, left_sec) + 0.001)
            self._since_sec = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._since_sec = None
                self._changed.notify_all()

    def _stuck_sec(self) -> float:
        if self._since_sec is None:
            return 0.0
        age_sec = time.monotonic() - self._since_sec
        return age_sec if age_sec >= self._patience_sec else 0.0

    def _check(self) -> None:
        stuck_sec = self._stuck_sec()
        if stuck_sec:
            raise StorageError(
                f"cannot write to {self._directory}: an earlier change has been waiting for the "
                f"disk for {stuck_sec:.0f} s. Nothing was changed. Look at the disk; it goes on by "
                "itself when that comes back."
            )


class Errands:
    """Runs what asks the disk something, one at a time, and does not wait for ever.

    Args:
        patience_sec: Longest wait for one.
    """

    def __init__(self, patience_sec: float = PATIENCE_SEC) -> None:
        self._patience_sec = patience_sec
        self._thread: threading.Thread | None = None

    def run(
        self, what: str, do: Callable[[], _Result], patience_sec: float | None = None
    ) -> _Result:
        """Return what a function returns, or raise what it raises; for one thread.

        Args:
            what: Is done, with its place, for the message.
            do: The function. It may go on behind the error.
            patience_sec: Longest wait for this one, where it is another than for most.

        Raises:
            StorageError: If it does not come back in time, or the one before has not yet.
        """
        if patience_sec is None:
            patience_sec = self._patience_sec
        outcome: list[_Result] = []
        failure: list[Exception] = []

        def work() -> None:
            try:
                outcome.append(do())
            except Exception as error:  # raised where it is waited for
                failure.append(error)

        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=work, name="errand", daemon=True)
            self._thread.start()
            self._thread.join(patience_sec)
        if failure:
            raise failure[0]
        if not outcome:
            raise StorageError(
                f"cannot {what}: the disk did not answer within {patience_sec:g} s. Look at "
                "the disk, and try again."
            )
        return outcome[0]
