"""What can be said about a memory without changing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vla_retrieval.memory import entries as store
from vla_retrieval.memory import schema
from vla_retrieval.memory.checking import CHILD_TABLES
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.memory.memory import Memory
from vla_retrieval.memory.results import MemoryStats


@dataclass(frozen=True)
class MemoryInfo:
    """A memory from outside.

    Attributes:
        stats: What it says about itself.
        format: Version of the database's format.
        pinned: How many entries are never evicted.
        rows: Of each table of entries.
        file_bytes: Size of each file in the directory.
        calibration: The text that is stored, or None.
    """

    stats: MemoryStats
    format: int
    pinned: int
    rows: Mapping[str, int]
    file_bytes: Mapping[str, int]
    calibration: str | None = None


def describe(directory: Path) -> MemoryInfo:
    """Open a memory to read only and return what it holds.

    Raises:
        MemoryLockedError: If a process has it open to write.
        MemoryFormatError: If it is not a memory, or an entry that has to be read is damaged.
        StorageError: If it cannot be read.
    """
    with open_contents(directory) as contents:
        with storage_errors("read", directory):
            files = {p.name: p.stat().st_size for p in sorted(directory.iterdir()) if p.is_file()}
        with contents.database.reading() as connection:
            pinned = len(store.pinned_ids(connection))
            rows = {
                table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                for table in ("entries", *CHILD_TABLES)
            }
        similarity = contents.similarity()
        with Memory.open(directory, None, similarity, read_only=True) as memory:
            stats, calibration = memory.stats(), memory.calibration()
            return MemoryInfo(stats, schema.FORMAT, pinned, rows, files, calibration)
