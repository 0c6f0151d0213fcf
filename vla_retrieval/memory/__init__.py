"""The memory: durable entries and the index over them. ``Memory`` is the only door."""

from vla_retrieval.memory.memory import Memory
from vla_retrieval.memory.options import Eviction, MemoryOptions
from vla_retrieval.memory.results import Added, IndexStats, MemoryStats, SearchResult

__all__ = [
    "Added",
    "Eviction",
    "IndexStats",
    "Memory",
    "MemoryOptions",
    "MemoryStats",
    "SearchResult",
]
