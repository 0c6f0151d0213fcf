"""Who goes when a memory is full, and why."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vla_retrieval.memory.columns import Columns, Rows
from vla_retrieval.memory.options import Eviction

_ASKED_AT_ONCE = 8
"""Entries whose nearest neighbour is searched per eviction; each costs one query."""

_AT_ONCE = 1_000
"""One in so many entries goes with those that must, where choosing looks at all entries."""

_SAME = 1e-6  # of a similarity: the sum in float32 may differ by as much

Redundancy = Callable[[int, Sequence[int]], float]
"""How much an entry, by id, resembles the one that resembles it most, others (ids) left out."""


class Standing:
    """What the eviction policies know about entries beside their columns.

    Args:
        uses: How often entries were matched so far, by id.
        pinned: Ids of entries that never go.
    """

    def __init__(self, uses: Iterable[tuple[int, int]], pinned: Iterable[int]) -> None:
        """Start with what the database knows."""
        self._uses: Counter[int] = Counter(dict(uses))
        self._unsaved: Counter[int] = Counter()
        self._counting = threading.Lock()  # protects both: readers count while a writer chooses
        self._pinned = set(pinned)
        self._redundancy: dict[int, float] = {}
        self._rng = np.random.default_rng(0)

    def use(self, entry_ids: Iterable[int]) -> None:
        """Count that entries, which exist, were matched."""
        ids = list(entry_ids)
        with self._counting:
            self._uses.update(ids)
            self._unsaved.update(ids)

    @property
    def unsaved(self) -> int:
        """How many entries were used since ``unsaved_uses`` was called."""
        return len(self._unsaved)

    def unsaved_uses(self) -> Counter[int]:
        """Return the uses since the last call."""
        with self._counting:
            unsaved, self._unsaved = self._unsaved, Counter()
        return unsaved

    def not_saved(self, uses: Counter[int]) -> None:
        """Take back what ``unsaved_uses`` gave and the disk refused."""
        with self._counting:
            self._unsaved.update(uses)

    def pin(self, entry_ids: Iterable[int], *, pinned: bool) -> None:
        """Say whether entries may go."""
        (self._pinned.update if pinned else self._pinned.difference_update)(entry_ids)

    def forget(self, entry_ids: Iterable[int]) -> None:
        """Drop what is known of removed entries."""
        with self._counting:
            for entry_id in entry_ids:
                self._uses.pop(entry_id, None)
                self._unsaved.pop(entry_id, None)
                self._redundancy.pop(entry_id, None)
                self._pinned.discard(entry_id)

    def choose(
        self,
        policy: Eviction,
        count: int,
        columns: Columns,
        redundancy: Redundancy,
        gone: Sequence[int] = (),
    ) -> list[int]:
        """Return the ids of at least ``count`` entries that go, or of all that may.

        Args:
            policy: Who goes first.
            count: How many have to go.
            columns: Of the entries there are.
            redundancy: Searches the memory.
            gone: Ids that were chosen before and are still in the columns.
        """
        rows = self._rows_that_may_go(columns, gone)
        if policy is Eviction.OLDEST:
            order = np.lexsort((columns.entry_ids[rows], columns.stamps[rows]))
            return columns.entry_ids[rows[order[:count]]].tolist()
        count = max(count, len(rows) // _AT_ONCE)
        if policy is Eviction.LEAST_USED:
            with self._counting:
                uses = np.array([self._uses[i] for i in columns.entry_ids[rows].tolist()])
            order = np.lexsort((columns.stamps[rows], uses))
            return columns.entry_ids[rows[order[:count]]].tolist()
        return self._most_redundant(count, columns.entry_ids[rows].tolist(), redundancy, gone)

    def _rows_that_may_go(self, columns: Columns, gone: Sequence[int]) -> Rows:
        alive = columns.alive.copy()
        staying = np.array(sorted(self._pinned.union(gone)), dtype=np.int64)
        alive[columns.rows_of(staying)] = False
        return np.flatnonzero(alive).astype(np.int64)

    def _most_redundant(
        self, count: int, entry_ids: list[int], redundancy: Redundancy, before: Sequence[int]
    ) -> list[int]:
        """Return those that resemble another entry most, as far as is known.

        Searching everyone's neighbour at each eviction would take as long as the memory is
        large. So a few unknown ones are asked each time, and the first of the known ones are
        asked again before they go, because their neighbour may have gone.
        """
        left = dict.fromkeys(entry_ids)
        unknown = [i for i in left if i not in self._redundancy]
        asked = min(len(unknown), max(_ASKED_AT_ONCE, 2 * count))
        for position in self._rng.choice(len(unknown), asked, replace=False) if asked else ():
            self._redundancy[unknown[position]] = redundancy(unknown[position], before)
        gone: list[int] = []
        while left and len(gone) < count:
            known = [i for i in left if i in self._redundancy] or [next(iter(left))]
            entry_id = max(known, key=lambda i: self._redundancy.get(i, -np.inf))
            last = self._redundancy.get(entry_id, -np.inf)
            now = redundancy(entry_id, [*before, *gone])
            self._redundancy[entry_id] = now
            if now >= last - _SAME:
                gone.append(entry_id)
                del left[entry_id]
        return gone
