"""How a memory is run: what the user decides and the data does not."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from pathlib import Path

from vla_retrieval.errors import InvalidInputError

AUTO = "auto"
INDEX_CHOICES = (AUTO, "exact", "pq", "pq_sq8", "hash")

_LONGEST_SEC = 1e9  # 30 years, in nanoseconds well inside the 63 bits that a stamp has


class Eviction(enum.Enum):
    """Who goes first when a memory is full. Pinned entries never go."""

    OLDEST = "oldest"
    LEAST_USED = "least_used"
    MOST_REDUNDANT = "most_redundant"


@dataclass(frozen=True)
class MemoryOptions:
    """How a memory is run.

    Attributes:
        index: ``auto``, or one of ``exact``, ``pq``, ``pq_sq8`` and ``hash``
            (``vla_retrieval/memory/index.py``).
        index_bytes: RAM that ``auto`` gives the index, in bytes; ``hash`` keeps whole vectors
            in RAM as far as that is enough.
        recall_target: Share of the ten best that approximate search is tuned to find, in
            each direction.
        vectors_in: Folder on whose disk whole vectors are kept while the memory is open, mapped
            rather than read, so that the kernel takes their RAM away where it is needed; None keeps
            them in RAM.
        search_threads: FAISS threads of one search.
        build_threads: FAISS threads that fit and fill an approximate index in the background.
        max_entries: Most entries that are kept; 0 is no bound.
        max_bytes: Most bytes of the database that entries may fill; 0 is no bound.
        eviction: Who goes when a bound is passed.
        merge_scene: Least cosine of two scenes that are near-duplicates, in [-1, 1]; above 1
            nothing is merged.
        merge_instruction: The same of their instructions.
        merge_within_sec: Most seconds between two near-duplicates, up to 1e9; 0 is any time.

    Raises:
        InvalidInputError: If a value is out of its range.
    """

    index: str = AUTO
    index_bytes: int = 4 << 30
    recall_target: float = 0.99
    vectors_in: Path | None = None
    search_threads: int = 1
    build_threads: int = 1
    max_entries: int = 0
    max_bytes: int = 0
    eviction: Eviction = Eviction.OLDEST
    merge_scene: float = 2.0
    merge_instruction: float = 0.999
    merge_within_sec: float = 0.0

    def __post_init__(self) -> None:
        """Check each value against its range."""
        if self.index not in INDEX_CHOICES:
            raise InvalidInputError("index", f"one of {', '.join(INDEX_CHOICES)}", repr(self.index))
        if not 0.5 <= self.recall_target <= 1.0:
            raise InvalidInputError(
                "recall_target", "a number in [0.5, 1]", str(self.recall_target)
            )
        if not 0 <= self.merge_within_sec <= _LONGEST_SEC:
            raise InvalidInputError(
                "merge_within_sec", f"seconds from 0 to {_LONGEST_SEC:g}",
                str(self.merge_within_sec),
            )  # fmt: skip
        ranges = {
            "search_threads": 1, "build_threads": 1, "index_bytes": 1,
            "merge_scene": -1, "merge_instruction": -1,
        }  # fmt: skip
        for field in fields(self):
            value = getattr(self, field.name)
            least = ranges.get(field.name, 0)
            if isinstance(value, (int, float)) and not value >= least:
                raise InvalidInputError(field.name, f"a number from {least} on", str(value))

    @property
    def bounded(self) -> bool:
        """Whether entries may have to go."""
        return bool(self.max_entries or self.max_bytes)

    @property
    def merges(self) -> bool:
        """Whether near-duplicates are merged at all."""
        return self.merge_scene <= 1.0
