"""What is stored beside the vectors, and filters that a known share of the entries passes."""

from __future__ import annotations

from typing import Final

import numpy as np

from tools.benchmarks.data import IntArray
from vla_retrieval.types import Filter, NewEntry

SHARES: Final = {
    "half": 0.5,
    "tenth": 0.1,
    "percent": 0.01,
    "permille": 0.001,
    "rare": 0.0001,
}
"""Groups of entries and their shares; an entry is in one of them at most."""

EVERYWHERE: Final = "robot"
"""A tag that every entry has."""

FILTER_KINDS: Final = ("tag", "metadata", "time")

_FIRST_NS: Final = 1_790_000_000_000_000_000
_STEP_NS: Final = 200_000_000


class Labels:
    """Which entries are in which group, scattered over the gallery at random.

    Args:
        size: Entries in the gallery.
        seed: Equal seeds make equal groups.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._groups = np.full(size, "rest", dtype="<U8")
        order = np.random.default_rng([seed, 100]).permutation(size)
        start = 0
        for group in SHARES:
            self._groups[order[start : start + self._count(group)]] = group
            start += self._count(group)

    def of(self, rows: IntArray) -> list[str]:
        """The group of each row; rows past the gallery are in none."""
        inside = self._groups[np.minimum(rows, self._size - 1)]
        return [str(g) for g in np.where(rows < self._size, inside, "rest")]

    def entries(self, rows: IntArray) -> list[NewEntry]:
        """The rows as entries, without thumbnails."""
        return [
            NewEntry(
                instruction=f"put the red cup next to plate {row}",
                stamp_ns=_stamp_ns(row),
                frame_id="camera",
                episode_id=f"episode-{row // 50}",
                tags=(EVERYWHERE, group),
                metadata={"group": group},
            )
            for row, group in zip(rows.tolist(), self.of(rows), strict=True)
        ]

    def filter(self, kind: str, group: str | None) -> tuple[Filter, IntArray] | None:
        """A filter and the rows that pass it.

        Args:
            kind: One of ``FILTER_KINDS``. By time, the newest entries pass.
            group: Whose share of the entries pass, or None for all of them.

        Returns:
            None where no such filter exists: no metadata is on every entry.
        """
        everything = np.arange(self._size)
        if kind == "time":
            first = 0 if group is None else self._size - self._count(group)
            return Filter(stamp_from_ns=_stamp_ns(first)), everything[first:]
        if group is None:
            return (Filter(tags=(EVERYWHERE,)), everything) if kind == "tag" else None
        rows = np.flatnonzero(self._groups == group)
        tags = (group,) if kind == "tag" else ()
        return Filter(tags=tags, metadata={} if tags else {"group": group}), rows

    def _count(self, group: str) -> int:
        return max(1, round(SHARES[group] * self._size))


def payload_bytes(entry: NewEntry, dim: int) -> int:
    """The bytes that an entry and its two float32 embeddings cannot do without."""
    texts = [entry.instruction, entry.frame_id, entry.episode_id, *entry.tags]
    texts += [text for item in entry.metadata.items() for text in item]
    return 2 * dim * 4 + 8 + sum(len(text.encode()) for text in texts)


def _stamp_ns(row: int) -> int:
    return _FIRST_NS + row * _STEP_NS
