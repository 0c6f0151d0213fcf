"""What the memory answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vla_retrieval.types import Candidate, Fingerprint, Similarity


@dataclass(frozen=True)
class SearchResult:
    """The answer to one search.

    Attributes:
        candidates: Ranked, best first.
        memory_size: Entries in the memory when it was searched.
        eligible_size: How many of them passed the filter.
        filter_sec: Seconds spent on the filter.
        search_sec: Seconds spent on comparing and ranking.
    """

    candidates: tuple[Candidate, ...]
    memory_size: int
    eligible_size: int
    filter_sec: float
    search_sec: float


@dataclass(frozen=True)
class MemoryStats:
    """What a memory holds.

    Attributes:
        entries: How many.
        size_bytes: Of all files of the memory on disk.
        oldest_stamp_ns: Earliest stamp of a scene, or None without entries.
        newest_stamp_ns: Latest stamp of a scene, or None without entries.
        similarity: How it was opened to be searched.
        fingerprint: What its embeddings were made with.
        directory: Where it is.
    """

    entries: int
    size_bytes: int
    oldest_stamp_ns: int | None
    newest_stamp_ns: int | None
    similarity: Similarity
    fingerprint: Fingerprint
    directory: Path
