"""The memory: durable entries and the index over them. ``Memory`` is the only door."""

from vla_retrieval.memory.memory import Memory
from vla_retrieval.memory.results import MemoryStats, SearchResult

__all__ = ["Memory", "MemoryStats", "SearchResult"]
