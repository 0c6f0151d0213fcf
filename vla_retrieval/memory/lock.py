"""The lock that keeps a second process, or a second open in this one, off a directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from datetime import datetime, timezone
from pathlib import Path

from vla_retrieval.errors import MemoryLockedError
from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.memory.names import LOCK_NAME


class DirectoryLock:
    """Holds a directory until it is released or the process ends, however it ends.

    It is flock(2) on a file that stays: the kernel frees it with the process, so that a killed
    holder leaves nothing to clean up, and a file that is never removed cannot be locked twice
    under one name. The file's text says who holds it; it is read only to name the holder.
    """

    def __init__(self, directory: Path, *, shared: bool = False) -> None:
        """Take the lock.

        Args:
            directory: To be held.
            shared: Whether others may hold it too, to read; then nothing is written.

        Raises:
            MemoryLockedError: If it is held; the message names the holder.
            StorageError: If the lock file cannot be written.
        """
        path = directory / LOCK_NAME
        self._file, self._shared = -1, shared
        how = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
        with storage_errors("lock", directory):
            if shared and not path.exists():
                return  # nobody ever wrote here, so nobody writes now
            self._file = os.open(path, how | os.O_CLOEXEC, 0o644)
            try:
                _lock(self._file, directory, shared=shared)
                if not shared:
                    with contextlib.suppress(OSError):  # a full disk must not keep readers off
                        _write_holder(self._file)
            except BaseException:
                os.close(self._file)
                raise

    def release(self) -> None:
        """Free it. Safe to call twice."""
        if self._file >= 0:
            with contextlib.suppress(OSError):  # a full disk must not keep the lock held
                if not self._shared:
                    os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1


def check_free(directory: Path) -> None:
    """Check that no process has a memory open to write; nothing is written.

    For who has long work to do before it opens the memory, and would be told only then.

    Raises:
        MemoryLockedError: If one has; the message names it.
        StorageError: If the lock file cannot be read.
    """
    DirectoryLock(directory, shared=True).release()


def _lock(file: int, directory: Path, *, shared: bool) -> None:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MemoryLockedError(
            f"{directory} is in use by {_holder(file)}. One process at a time may open a memory:"
            " stop that one, or give this one a directory of its own."
        ) from None


def _write_holder(file: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(holder).encode(), 0)


def _holder(file: int) -> str:
    try:
        holder = json.loads(os.pread(file, 1000, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # between its lock and its write
        return "another process that is just starting or stopping"
