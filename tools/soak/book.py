"""What a node acknowledged, against what its memory holds in the end."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vla_retrieval.memory import Memory

_NEWEST: Final = 20  # only of these are any forgotten


@dataclass(frozen=True)
class Page:
    """One acknowledged entry."""

    instruction: str
    stamp_ns: int


class Book:
    """Entries that were acknowledged and not given up since. Any thread may write.

    Args:
        room: How many entries the memory holds at most.

    Attributes:
        acknowledged: How many were, ever.
        forgotten: How many were forgotten on request.
        evicted: How many of the acknowledged ones the node named as evicted.
    """

    def __init__(self, room: int) -> None:
        """Begin with nothing."""
        self._room = room
        self.acknowledged = self.forgotten = self.evicted = 0
        self._lock = threading.Lock()
        self._pages: dict[int, Page] = {}
        self._gone: set[int] = set()  # named as evicted before their own acknowledgement came

    def note(self, entry_id: int, page: Page, evicted_ids: list[int]) -> None:
        """Note an acknowledged entry, and those that went to make room for it."""
        with self._lock:
            self.acknowledged += 1
            if entry_id in self._gone:
                self._gone.remove(entry_id)
                self.evicted += 1
            else:
                self._pages[entry_id] = page
            for gone in evicted_ids:
                if self._pages.pop(gone, None) is None:
                    self._gone.add(gone)
                else:
                    self.evicted += 1

    def take(self, random: np.random.Generator, many: int) -> list[int]:
        """Take some of the newest entries out, which are to be forgotten."""
        with self._lock:
            newest = list(self._pages)[-_NEWEST:]
            chosen = random.permutation(newest)[:many].tolist()
            for entry_id in chosen:
                del self._pages[entry_id]
            return [int(entry_id) for entry_id in chosen]

    def confirm_forgotten(self, many: int) -> None:
        """Note that entries taken out are gone."""
        with self._lock:
            self.forgotten += many

    def any_page(self, random: np.random.Generator) -> tuple[int, Page] | None:
        """Return an entry that is neither evicted nor forgotten within seconds.

        It is of the newest that fill half of the memory: of those that went for what the node
        remembers by itself, nobody is told, and their pages stay.
        """
        with self._lock:
            pages = list(self._pages.items())
        there = pages[-self._room :]
        safe = there[len(there) // 2 : -_NEWEST]
        return safe[int(random.integers(len(safe)))] if safe else None

    def compare(self, memory_dir: Path) -> tuple[int, list[str]]:
        """Return how many entries are there, and a line for each that is lost or altered.

        Nobody is told whom the node evicts for what it remembers by itself. As eviction goes by
        the oldest stamp, such an entry is older than all of the book's that stayed, and no loss.
        """
        with Memory.open(memory_dir, None, read_only=True) as memory:
            stored = {entry.entry_id: entry for entry in memory.get_many(memory.entry_ids())}
        oldest_ns = min((p.stamp_ns for key, p in self._pages.items() if key in stored), default=0)
        wrong = []
        for entry_id, page in sorted(self._pages.items()):
            entry = stored.get(entry_id)
            if entry is None and page.stamp_ns >= oldest_ns:
                wrong.append(f"entry {entry_id} ({page.instruction}) is lost")
            elif entry is not None and entry.instruction != page.instruction:
                wrong.append(f"entry {entry_id} is {entry.instruction}, not {page.instruction}")
        return len(stored), wrong
