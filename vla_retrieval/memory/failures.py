"""From the errors of SQLite and the file system to those of the library."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from vla_retrieval.errors import MemoryFormatError, StorageError
from vla_retrieval.memory.schema import damaged

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Python raises the second where SQLite's own message quotes bytes of a damaged file."""

_NO_TEXT = "Could not decode to UTF-8"
"""What Python says of a text in a row in which a flipped bit left no Unicode."""

# SQLite's own texts; its error codes reach Python from 3.11 on only.
_NEXT_STEPS = {
    "full": "Free some disk space. Nothing was changed, and reading goes on.",
    "disk i/o": "Look at the disk, its free space, whether it may be written. Nothing was changed.",
    "readonly": "Make the directory and its files writable for this user.",
    "unable to open": "Make the directory and its files readable and writable for this user.",
    "locked": "Another program has the database open: close it.",
}


class storage_errors:  # noqa: N801  (it is used as a function is)
    """Turn errors of SQLite and the file system in a block into a StorageError with the path.

    A class, because a generator costs each commit several microseconds.

    Args:
        doing: A verb, for ``"cannot <doing> <path>"``.
        path: What the block works on.

    Raises:
        MemoryFormatError: If SQLite finds the file or a text in it damaged, or not its own.
        StorageError: For every other of these errors.
    """

    __slots__ = ("_doing", "_path")

    def __init__(self, doing: str, path: Path) -> None:
        """Say what the block does."""
        self._doing = doing
        self._path = path

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Raise in place of what was raised."""
        if error is not None:
            raise_translated(error, self._doing, self._path)


def raise_translated(error: BaseException, doing: str, path: Path) -> None:
    """Raise what ``storage_errors`` makes of an error; do nothing where it leaves it alone."""
    if isinstance(error, SQLITE_ERRORS):
        text = str(error)
        if _NO_TEXT in text:
            raise damaged(path, text) from error
        of_the_content = isinstance(error, UnicodeDecodeError)
        if of_the_content or "not a database" in text or "malformed" in text:
            raise MemoryFormatError(
                f"cannot {doing} {path}: expected a sound SQLite database, got: {text}."
                " Restore the directory from a copy, or move it away to start empty."
            ) from error
        next_step = next((s for key, s in _NEXT_STEPS.items() if key in text.lower()), "")
        raise StorageError(f"cannot {doing} {path}: {text}. {next_step}".rstrip()) from error
    if isinstance(error, OSError):
        raise StorageError(
            f"cannot {doing} {path}: {error.strerror or error}."
            " Give a directory on a disk with free space that this user may write; a memory that is"
            " there can be searched read-only without either."
        ) from error
