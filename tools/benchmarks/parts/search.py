"""How long a search takes and how much of the truth it finds, beside FAISS called directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.benchmarks.bench import Bench, K
from tools.benchmarks.measuring import BURST, interleave
from tools.benchmarks.stored import stored_system
from tools.benchmarks.systems import (
    BareFaiss,
    index_facts,
    open_memory,
    search_memory,
    wait_until_idle,
)
from tools.benchmarks.tasks import one, rows_of
from tools.benchmarks.truth import DIRECTIONS, Truth
from vla_retrieval.memory import Memory
from vla_retrieval.types import Modality

_CODES = {"pq": "SQfp16", "pq_sq8": "SQ8"}
_MOST_PROBES = 4096


def measure(bench: Bench) -> dict[str, Any]:
    """Each direction: the memory, exact FAISS, and a bare index of the memory's kind."""
    folder, _ = stored_system(bench, "memory")
    memory = open_memory(folder, bench.settings, durable=False)
    wait_until_idle(memory)
    index = index_facts(memory)
    exact = BareFaiss(bench.gallery, "Flat", list(Modality))
    kind = str(index.get("kind", "exact"))
    bare = BareFaiss(bench.gallery, _description(bench, kind), list(Modality)) if (
        kind in _CODES and bench.settings.bare
    ) else None  # fmt: skip
    found = {name: _direction(bench, memory, exact, bare, name) for name in DIRECTIONS}
    memory.close()
    return {"index": index, "bare": _description(bench, kind), "directions": found}


def _direction(
    bench: Bench, memory: Memory, exact: BareFaiss, bare: BareFaiss | None, name: str
) -> dict[str, Any]:
    sides, asked = DIRECTIONS[name], bench.queries
    calls: dict[str, Callable[[int], Any]] = {
        "memory": lambda turn: search_memory(memory, sides, one(asked, turn)),
        "faiss flat": lambda turn: exact.search(sides, one(asked, turn)),
    }
    probes = None
    if bare is not None and len(sides) == 1:
        probes = _probes(bench, memory, bare, name)
        calls["bare"] = lambda turn: bare.search(sides, one(asked, turn), probes)
    laps = interleave(calls, len(asked), bench.settings.seconds, burst=BURST)
    truth = Truth(bench.gallery, rows_of(asked, 0, laps.rounds), sides, K)
    found: dict[str, Any] = {
        "queries": laps.rounds,
        **laps.latency("memory"),
        "recall_at_10": truth.recall(laps.answers["memory"]),
        "faiss_flat": laps.latency("faiss flat"),
        "ratio_to_faiss_flat": laps.ratio("memory", "faiss flat"),
    }
    if "bare" in calls:
        found["bare"] = {
            "nprobe": probes, **laps.latency("bare"),
            "recall_at_10": truth.recall(laps.answers["bare"]),
        }  # fmt: skip
        found["ratio_to_bare"] = laps.ratio("memory", "bare")
    return found


def _probes(bench: Bench, memory: Memory, bare: BareFaiss, name: str) -> int:
    """The fewest lists, as a power of two, with which the bare index finds as much as the memory.

    Found on the first half of the queries; a setting of somebody who knows the right answers.
    """
    sides = DIRECTIONS[name]
    some = rows_of(bench.queries, 0, max(1, len(bench.queries) // 2))
    truth = Truth(bench.gallery, some, sides, K)
    wanted = truth.recall([search_memory(memory, sides, one(some, i)) for i in range(len(some))])
    probes = 1
    while probes < _MOST_PROBES:
        found = [bare.search(sides, one(some, i), probes) for i in range(len(some))]
        if truth.recall(found) >= min(wanted, 0.999):
            break
        probes *= 2
    return probes


def _description(bench: Bench, kind: str) -> str:
    """The index that somebody would take who calls FAISS without a memory around it."""
    lists = max(1, min(int(4 * bench.size**0.5), bench.size // 39))  # FAISS wants 39 a list
    return f"IVF{lists},{_CODES[kind]}" if kind in _CODES else "Flat"
