"""Keeping a memory within its bounds."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence

from vla_retrieval.errors import InvalidInputError, MemoryFullError
from vla_retrieval.memory import counters
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.eviction import Standing
from vla_retrieval.memory.eviction_log import Evicted
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.memory.reading import Neighbourhood

_COUNTED = {
    "max_entries": counters.EVICTED_OVER_ENTRIES,
    "max_bytes": counters.EVICTED_OVER_BYTES,
}


def make_room(
    connection: sqlite3.Connection,
    database: Database,
    index: Index,
    standing: Standing,
    options: MemoryOptions,
    adding: int,
) -> list[Evicted]:
    """Evict entries until the bounds hold; return who went and why.

    Args:
        connection: In the transaction that added entries.
        database: Its database.
        index: Not changed yet: the new entries are not in it, and are not evicted.
        standing: Chooses.
        options: The bounds, and who goes first.
        adding: How many entries the transaction added.

    Raises:
        InvalidInputError: If more are added at once than may be kept.
        MemoryFullError: If all that could go are pinned; the caller must roll back.
    """
    if options.max_entries and adding > options.max_entries:
        raise InvalidInputError(
            "entries", f"at most max_entries, {options.max_entries}, at once", str(adding)
        )
    evicted: list[Evicted] = []
    if not options.bounded:
        return evicted
    if options.max_entries:
        over = len(index) + adding - options.max_entries
        evicted += _evict(
            connection, database, index, standing, options, over, "max_entries", evicted
        )
    # Each turn evicts what should be enough, or raises: pages are freed only when all on them went.
    while options.max_bytes and (used := database.used_bytes(connection)) > options.max_bytes:
        with database.reading() as before:  # without the new entries, which may be of another size
            bytes_each = database.used_bytes(before) / max(1, len(index))
        over = math.ceil((used - options.max_bytes) / bytes_each)
        evicted += _evict(
            connection, database, index, standing, options, over, "max_bytes", evicted, enough=1
        )
    if evicted:
        removed = sum(len(went.entry_ids) for went in evicted)
        counters.increase(connection, counters.REMOVED, removed)
    return evicted


def _evict(
    connection: sqlite3.Connection,
    database: Database,
    index: Index,
    standing: Standing,
    options: MemoryOptions,
    count: int,
    bound: str,
    before: Sequence[Evicted],
    enough: int = 0,
) -> list[Evicted]:
    """Evict some; fewer will do where ``enough`` says so, because their sizes are estimated."""
    if count <= 0:
        return []
    limit = getattr(options, bound)
    gone = [entry_id for evicted in before for entry_id in evicted.entry_ids]
    redundancy = Neighbourhood(index, database).redundancy
    chosen = standing.choose(options.eviction, count, index.columns, redundancy, gone)
    if len(chosen) < (enough or count):
        raise MemoryFullError(
            f"{database.path.parent}: {bound} {limit} is reached, and of {len(index)} entries only"
            f" {len(chosen)} may go; {count} have to. Unpin or forget some, or raise the bound."
        )
    store.delete(connection, chosen)
    counters.increase(connection, counters.EVICTED, len(chosen))
    counters.increase(connection, _COUNTED[bound], len(chosen))
    return [Evicted(tuple(chosen), bound, limit)]
