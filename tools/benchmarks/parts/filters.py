"""What a filter costs: the time of a filtered search over that of the same search without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.benchmarks.bench import Bench, K
from tools.benchmarks.entries import FILTER_KINDS, SHARES
from tools.benchmarks.measuring import BURST, interleave
from tools.benchmarks.stored import stored_system
from tools.benchmarks.systems import open_memory, search_memory, wait_until_idle
from tools.benchmarks.tasks import one, rows_of
from tools.benchmarks.truth import DIRECTIONS, Truth
from vla_retrieval.memory import Memory

_DIRECTIONS = ("scenes by image", "scenes by text")


def measure(bench: Bench) -> dict[str, Any]:
    """Each direction and kind of filter, at each share of the entries that pass."""
    folder, _ = stored_system(bench, "memory")
    memory = open_memory(folder, bench.settings, durable=False)
    wait_until_idle(memory)
    found = {
        direction: {kind: _kind(bench, memory, direction, kind) for kind in FILTER_KINDS}
        for direction in _DIRECTIONS
    }
    memory.close()
    return found


def _kind(bench: Bench, memory: Memory, direction: str, kind: str) -> dict[str, Any]:
    sides, asked = DIRECTIONS[direction], bench.queries
    filters = {
        group or "all": chosen
        for group in (None, *SHARES)
        if (chosen := bench.labels.filter(kind, group)) is not None
    }
    calls: dict[str, Callable[[int], Any]] = {
        "unfiltered": lambda turn: search_memory(memory, sides, one(asked, turn))
    }
    for name, (filter, _) in filters.items():
        calls[name] = lambda turn, filter=filter: search_memory(
            memory, sides, one(asked, turn), filter
        )
    laps = interleave(calls, len(asked), bench.settings.seconds / 2, burst=BURST)
    answered = rows_of(asked, 0, laps.rounds)
    return {
        name: {
            "share": SHARES.get(name, 1.0),
            "eligible": len(rows),
            "queries": laps.rounds,
            **laps.latency(name),
            "ratio_to_unfiltered": laps.ratio(name, "unfiltered"),
            "recall_at_10": Truth(bench.gallery, answered, sides, K, rows).recall(
                laps.answers[name]
            ),
        }
        for name, (_, rows) in filters.items()
    }
