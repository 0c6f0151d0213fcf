"""What an index says of itself."""

from __future__ import annotations

from vla_retrieval.memory.index import Index
from vla_retrieval.memory.live import LiveIndex
from vla_retrieval.memory.results import DirectionStats, HeadStats, IndexStats
from vla_retrieval.projection import Head
from vla_retrieval.types import Modality


def describe_index(
    index: Index, live: LiveIndex, last_error: str, wanted: Head | None
) -> IndexStats:
    """Return how a memory is searched.

    Args:
        index: In use.
        live: That lends it.
        last_error: What went wrong when it was last kept in order, or empty.
        wanted: The head that it has or is to have.
    """
    directions = tuple(
        DirectionStats(d.source.value, d.target.value, _named(d.beside), depth, index.recalls[d])
        for d, depth in index.depths.items()
    )
    return IndexStats(
        index.kind.value, index.columns.rows, index.columns.dead, index.size_bytes, directions,
        live.source, live.behind, last_error, describe_head(index.head),
        describe_head(wanted),
    )  # fmt: skip


def _named(modality: Modality | None) -> str:
    return "" if modality is None else modality.value


def describe_head(head: Head | None) -> HeadStats | None:
    """Return what a head says of itself, or None without one."""
    return None if head is None else HeadStats(head.digest, head.method, head.dim, head.bits)


def ends(index: Index) -> tuple[int | None, int | None]:
    """Return the earliest and the latest stamp of its entries, or None without entries."""
    stamps = index.columns.stamps[index.columns.alive]
    return (int(stamps.min()), int(stamps.max())) if len(stamps) else (None, None)
