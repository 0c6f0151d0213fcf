"""What the log says of who went to make room."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vla_retrieval.memory.options import Eviction

_log = logging.getLogger(__name__)

_PERIOD_SEC = 60.0
_SHOWN = 10


@dataclass(frozen=True)
class Evicted:
    """Entries that went together.

    Attributes:
        entry_ids: Their ids, in the order in which they were chosen.
        bound: That was passed: a field of ``MemoryOptions``, ``max_entries`` or ``max_bytes``.
        limit: Its value.
    """

    entry_ids: tuple[int, ...]
    bound: str
    limit: int


class EvictionLog:
    """Tells of each eviction at DEBUG, and of all of them at INFO, once a minute at most.

    A full memory evicts at every pair that it remembers: with a line for each, nothing else could
    be read in the log. For one writer at a time.

    Args:
        policy: Who goes first.
        clock: Seconds on a steady clock.
    """

    def __init__(self, policy: Eviction, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = f"{policy.value.replace('_', ' ')} first"
        self._clock = clock
        self._told_sec: float | None = None
        self._untold: Counter[str] = Counter()
        self._last: tuple[int, ...] = ()

    def note(self, evictions: Sequence[Evicted]) -> None:
        """Take what went in one commit, after it."""
        for evicted in evictions:
            reason = f"{evicted.bound} {evicted.limit}"
            _log.debug("evicted %s: %s was passed; %s",
                       _listed(evicted.entry_ids), reason, self._first)  # fmt: skip
            self._untold[reason] += len(evicted.entry_ids)
            self._last = evicted.entry_ids
        if self._told_sec is None or self._clock() - self._told_sec >= _PERIOD_SEC:
            self.tell()

    def tell(self) -> None:
        """Say now what was not said yet, if anything."""
        if not self._untold:
            return
        now_sec = self._clock()
        within = "" if self._told_sec is None else f" in the last {now_sec - self._told_sec:.0f} s"
        counts = ", ".join(
            f"{count} because {reason} was passed" for reason, count in self._untold.items()
        )
        _log.info(
            "evicted%s: %s; %s, the last %s. The log has each at DEBUG.",
            within, counts, self._first, _listed(self._last),
        )  # fmt: skip
        self._told_sec = now_sec
        self._untold.clear()


def _listed(entry_ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, entry_ids[:_SHOWN]))
    return f"{'entry' if len(entry_ids) == 1 else 'entries'} {shown}" + (
        f" and {len(entry_ids) - _SHOWN} more" if len(entry_ids) > _SHOWN else ""
    )
