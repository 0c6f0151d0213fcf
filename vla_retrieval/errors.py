"""Every error that the library raises on purpose.

Each names its cause, shows what was expected and what came, and says the next step::

    RetrievalError
    ├── InvalidInputError        a value from outside is missing, malformed or out of range
    ├── EntryNotFoundError       no entry has the id
    ├── DeadlineExceededError    no answer within the time given
    ├── EncoderError             a model cannot be found, loaded or run
    │   └── CheckpointError      a weights file is missing, damaged or of another model
    ├── HeadError                a file of a learned head cannot be read or written
    │   └── HeadMismatchError    it was trained on another encoder
    ├── ShippedFileError         something that comes with the package is not installed
    ├── MissingLibraryError      a library that only this task needs is not installed
    └── StorageError             the memory directory cannot be used
        ├── MemoryFormatError    it is not a memory, or of a format this version cannot read
        ├── MemoryMismatchError  it was made with another encoder
        ├── MemoryLockedError    another process holds it
        └── MemoryFullError      a bound is reached and nothing may be evicted

The node adds NoFrameError and NotActiveError (``ros/replies.py``), WorkerStalledError
(``ros/jobs.py``), and MemoryLostError, a StorageError (``ros/disk.py``); its client adds
ClientClosedError (``ros/client.py``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_SHOWN = 500  # characters of what came: a log is read by people


class RetrievalError(Exception):
    """Root of the tree."""


class InvalidInputError(RetrievalError):
    """A value from outside is missing, malformed or out of range.

    Attributes:
        field: Name of the field as the caller wrote it, e.g. ``"k"`` or ``"image.step"``.
    """

    def __init__(self, field: str, expected: str, got: str, next_step: str = "") -> None:
        """Build the message ``field: expected ..., got .... next step``."""
        self.field = field
        shown = got if len(got) <= _MOST_SHOWN else f"{got[:_MOST_SHOWN]}… ({len(got)} characters)"
        tail = f" {next_step}" if next_step else ""
        super().__init__(f"{field}: expected {expected}, got {shown}.{tail}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the next step about a name that is none of the known ones; nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"Did you mean {near[0]}?" if near else ""


class EntryNotFoundError(RetrievalError):
    """No entry has the id."""


class DeadlineExceededError(RetrievalError):
    """No answer within the time given."""


class EncoderError(RetrievalError):
    """A model cannot be found, loaded or run."""


class CheckpointError(EncoderError):
    """A weights file is missing, damaged or of another model."""


class HeadError(RetrievalError):
    """A file of a learned head is missing, damaged, or no head that this version knows."""


class HeadMismatchError(HeadError):
    """A head was trained on another encoder; the message has both fingerprints."""


class ShippedFileError(RetrievalError):
    """Something that comes with the package is not where the package is."""


class MissingLibraryError(RetrievalError):
    """A library that only some tasks need is not installed."""


class StorageError(RetrievalError):
    """The memory directory cannot be used."""


class MemoryFormatError(StorageError):
    """The directory is not a memory, or of a format that this version cannot read."""


class MemoryMismatchError(StorageError):
    """The memory was made with another encoder."""


class MemoryLockedError(StorageError):
    """Another process holds the memory directory."""


class MemoryFullError(StorageError):
    """A bound of the memory is reached, and no entry may be evicted to make room."""
