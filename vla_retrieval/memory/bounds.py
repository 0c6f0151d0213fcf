"""Keeping a memory within its bounds."""

from __future__ import annotations

import logging
import math
import sqlite3

from vla_retrieval.errors import InvalidInputError, MemoryFullError
from vla_retrieval.memory import counters
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.eviction import Standing
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.memory.reading import Neighbourhood

_log = logging.getLogger(__name__)

_TRIES = 8  # each evicts what should be enough bytes; pages are freed only when all on them went


def make_room(
    connection: sqlite3.Connection,
    database: Database,
    index: Index,
    standing: Standing,
    options: MemoryOptions,
    adding: int,
) -> list[int]:
    """Evict entries until the bounds hold; return their ids.

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
    evicted: list[int] = []
    if options.max_entries:
        over = len(index) + adding - options.max_entries
        bound = f"max_entries {options.max_entries}"
        evicted += _evict(connection, database, index, standing, options, over, bound, evicted)
    for _ in range(_TRIES if options.max_bytes else 0):
        used = database.used_bytes(connection)
        if used <= options.max_bytes:
            break
        kept = len(index) + adding - len(evicted)
        over = math.ceil((used - options.max_bytes) / max(1.0, used / max(1, kept)))
        bound = f"max_bytes {options.max_bytes}"
        evicted += _evict(connection, database, index, standing, options, over, bound, evicted)
    return evicted


def _evict(
    connection: sqlite3.Connection,
    database: Database,
    index: Index,
    standing: Standing,
    options: MemoryOptions,
    count: int,
    bound: str,
    gone: list[int],
) -> list[int]:
    if count <= 0:
        return []
    redundancy = Neighbourhood(index, database).redundancy
    chosen = standing.choose(options.eviction, count, index.columns, redundancy, gone)
    if len(chosen) < count:
        raise MemoryFullError(
            f"{database.path.parent}: {bound} is reached, and of {len(index)} entries only"
            f" {len(chosen)} may go; {count} have to. Unpin or forget some, or raise the bound."
        )
    store.delete(connection, chosen)
    counters.increase(connection, counters.EVICTED, len(chosen))
    shown = ", ".join(map(str, chosen[:10])) + (", ..." if len(chosen) > 10 else "")
    _log.info(
        "evicted %d entries (%s): %s was passed; %s first",
        len(chosen), shown, bound, options.eviction.value.replace("_", " "),
    )  # fmt: skip
    return chosen
