"""The last thing that went wrong, and whether the memory can be written."""

from __future__ import annotations

import threading
import time


class Health:
    """What the diagnostics tell of failures. Any thread may note and read."""

    def __init__(self) -> None:
        """Start without a failure."""
        self._lock = threading.Lock()  # text and time belong together
        self._error = ""
        self._since_sec = 0.0
        self._write_error = ""

    def note_error(self, error: Exception | str) -> None:
        """Note that something failed."""
        with self._lock:
            self._error, self._since_sec = str(error), time.monotonic()

    def note_write(self, error: Exception | None) -> None:
        """Note that the memory was written to, or why it could not be."""
        if error is not None:
            self.note_error(error)
        with self._lock:
            self._write_error = str(error) if error is not None else ""

    @property
    def write_error(self) -> str:
        """Why the last attempt to write the memory failed, or nothing."""
        return self._write_error

    def facts(self) -> dict[str, object]:
        """Return the last error, and how long ago it was, in seconds."""
        with self._lock:
            if not self._error:
                return {"last_error": ""}
            age_sec = time.monotonic() - self._since_sec
            return {"last_error": self._error, "last_error_age_sec": f"{age_sec:.0f}"}
