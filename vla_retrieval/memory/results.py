"""What the memory answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vla_retrieval.projection import Head, short_digest
from vla_retrieval.types import Candidate, Fingerprint, Similarity


@dataclass(frozen=True)
class SearchResult:
    """The answer to one search.

    Attributes:
        candidates: Ranked, best first.
        memory_size: Entries in the memory when it was searched.
        eligible_size: How many of them passed the filter.
        exact: Whether no other entry would rank among these; an approximate index may miss some.
        filter_sec: Seconds spent on the filter.
        search_sec: Seconds spent on comparing and ranking.
        head: That projected what was compared, or None.
    """

    candidates: tuple[Candidate, ...]
    memory_size: int
    eligible_size: int
    exact: bool
    filter_sec: float
    search_sec: float
    head: Head | None = None


@dataclass(frozen=True)
class Added:
    """What became of a batch of entries.

    Attributes:
        entry_ids: One per entry given: its own, or that of the stored entry that it repeats.
        merged: Whether each was a near-duplicate, which is counted and not stored.
        evicted: Ids of entries that went to make room.
    """

    entry_ids: tuple[int, ...]
    merged: tuple[bool, ...]
    evicted: tuple[int, ...]


@dataclass(frozen=True)
class DirectionStats:
    """How one direction is searched.

    Attributes:
        source: Modality of the query, ``scene`` or ``instruction``.
        target: Half that it is compared with.
        beside: Modality that asks for the other half in the same query, or nothing.
        depth: Rows that are proposed, and compared whole.
        recall: Share of the ten best found when that was tuned, on stored embeddings.
    """

    source: str
    target: str
    beside: str
    depth: int
    recall: float


@dataclass(frozen=True)
class HeadStats:
    """What a head is.

    Attributes:
        digest: ``"sha256:<hex>"`` of what it computes.
        method: How it was learned.
        dim: Length of what it makes of an embedding.
        bits: Length of its codes, or 0.
    """

    digest: str
    method: str
    dim: int
    bits: int

    def __str__(self) -> str:
        """Return what identifies it, for people."""
        return f"{self.method} {short_digest(self.digest)}"


@dataclass(frozen=True)
class IndexStats:
    """How the memory is searched.

    Attributes:
        kind: ``exact``, ``pq``, ``pq_sq8`` or ``hash``.
        rows: Of the index, those of removed entries included.
        dead_rows: Of removed entries.
        ram_bytes: About what it takes.
        directions: How hard each direction searches; none for an exact index.
        opened_from: Where it came from when the memory was opened, for people.
        snapshot_behind: Changed entries that the snapshot on disk does not have.
        last_error: What went wrong when it was last kept in order, or empty.
        head: That projects what is compared, or None.
        wanted_head: The same, or while the index is built anew for another one: that.
    """

    kind: str
    rows: int
    dead_rows: int
    ram_bytes: int
    directions: tuple[DirectionStats, ...]
    opened_from: str
    snapshot_behind: int
    last_error: str
    head: HeadStats | None = None
    wanted_head: HeadStats | None = None

    @property
    def switching(self) -> bool:
        """Whether it is still searched with another head than the one that is wanted."""
        return self.head != self.wanted_head


@dataclass(frozen=True)
class MemoryStats:
    """What a memory holds.

    Attributes:
        entries: How many.
        size_bytes: Of all files of the memory on disk.
        oldest_stamp_ns: Earliest stamp of a scene, or None without entries.
        newest_stamp_ns: Latest stamp of a scene, or None without entries.
        merged: Near-duplicates that were counted and not stored, ever.
        evicted: Entries that went to keep within bounds, ever.
        similarity: How it was opened to be searched.
        fingerprint: What its embeddings were made with.
        directory: Where it is.
        index: How it is searched.
        evicted_over_entries: Of those evicted, how many because ``max_entries`` was passed.
        evicted_over_bytes: And because ``max_bytes`` was; older versions counted neither.
    """

    entries: int
    size_bytes: int
    oldest_stamp_ns: int | None
    newest_stamp_ns: int | None
    merged: int
    evicted: int
    similarity: Similarity
    fingerprint: Fingerprint
    directory: Path
    index: IndexStats
    evicted_over_entries: int = 0
    evicted_over_bytes: int = 0
