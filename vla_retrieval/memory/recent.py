"""Entries that were read lately: what a camera sees now resembles what it saw a moment ago."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vla_retrieval.types import Entry

_MOST_BYTES = 4 << 20
_OWN_BYTES = 1500
"""Of an entry with short texts and without an action, roughly."""


class RecentEntries:
    """Entries as they are in the database, without thumbnails; the one used last goes last.

    Whoever changes or removes entries says so by `changing`, and an entry that was read before
    that is not kept after it. Any thread may call it.

    Args:
        most_bytes: What they may take of the RAM, roughly.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # protects all below
        self._entries: OrderedDict[int, tuple[Entry, int]] = OrderedDict()
        self._bytes = 0
        self._changes = 0
        self._in_change: set[int] = set()  # of the writer, who adds to it without the lock

    @property
    def changes(self) -> int:
        """How often entries were changed or removed: read before an entry is, for `keep`."""
        return self._changes

    def find(self, entry_ids: Sequence[int]) -> list[Entry] | None:
        """Return these entries in their order, or None where one is not kept, or being changed."""
        with self._lock:
            found = [self._entries.get(entry_id) for entry_id in entry_ids]
            if None in found or not self._in_change.isdisjoint(entry_ids):
                return None
            for entry_id in entry_ids:
                self._entries.move_to_end(entry_id)
        return [entry for entry, _ in filter(None, found)]

    def keep(self, entries: Sequence[Entry], changes: int) -> None:
        """Keep entries, unless some entry was changed since.

        Args:
            entries: Without thumbnails.
            changes: What `changes` was before they were read.
        """
        with self._lock:
            if changes != self._changes:
                return
            for entry in entries:
                self._drop(entry.entry_id)
                size = _size(entry)
                self._entries[entry.entry_id] = entry, size
                self._bytes += size
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._entries)))

    @contextmanager
    def changing(self) -> Iterator[set[int]]:
        """Run a block that commits a change of entries, one at a time.

        Those that it adds to the set before the commit are not found from then on, and forgotten
        at the end. Where it fails, nobody knows what was committed, and all are forgotten.
        """
        changed = self._in_change = set()
        try:
            yield changed
        except BaseException:
            with self._lock:
                changed.update(self._entries)
            raise
        finally:
            self._forget(changed)

    def _forget(self, entry_ids: set[int]) -> None:
        with self._lock:
            self._changes += 1
            for entry_id in entry_ids:
                self._drop(entry_id)
            self._in_change = set()

    def _drop(self, entry_id: int) -> None:
        _, size = self._entries.pop(entry_id, (None, 0))
        self._bytes -= size


def _size(entry: Entry) -> int:
    texts = len(entry.instruction) + sum(len(k) + len(v) for k, v in entry.metadata.items())
    values = 0 if entry.action is None else entry.action.values.nbytes
    return _OWN_BYTES + 4 * (texts + sum(map(len, entry.tags))) + values
