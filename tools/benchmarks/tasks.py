"""What a child process can be asked to do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from tools.benchmarks.bench import Bench, K, Settings
from tools.benchmarks.data import Generator, Pairs
from tools.benchmarks.entries import Labels
from tools.benchmarks.machine import anonymous_bytes, disk_bytes
from tools.benchmarks.measuring import BURST, interleave
from tools.benchmarks.peers import SYSTEMS
from tools.benchmarks.systems import (
    BareFaiss,
    OurMemory,
    System,
    index_facts,
    open_memory,
    search_memory,
    wait_until_idle,
)
from tools.benchmarks.truth import DIRECTIONS, Truth, half_of
from vla_retrieval.memory import Memory
from vla_retrieval.types import Modality

BATCH: Final = 1024
_SINGLES: Final = 64
_ANSWERS: Final = 20
_FILTERED: Final = ("percent", "rare")


def fill(settings: Settings, name: str, folder: str, limit_sec: str) -> dict[str, Any]:
    """Fill a store from nothing: a few rows one by one, the rest in batches.

    Returns:
        Rates, and ``cut_at`` if the time was over before the rows were.
    """
    bench = Bench(settings)
    system = SYSTEMS[name](Path(folder), settings)
    system.create()
    singles = min(_SINGLES, bench.size)
    single_sec = _add_rows(system, bench, 0, singles, 1)
    started = time.perf_counter()
    for start in range(singles, bench.size, BATCH):
        if time.perf_counter() - started > float(limit_sec):
            return {"cut_at": start}
        _add_rows(system, bench, start, min(start + BATCH, bench.size), BATCH)
    batch_sec = time.perf_counter() - started
    system.finish()
    all_sec = time.perf_counter() - started
    batched = max(1, bench.size - singles)
    return {
        "single_adds_per_sec": singles / single_sec,
        "batch_adds_per_sec": batched / batch_sec if batch_sec else 0.0,
        "ready_per_sec": batched / all_sec,
        "finish_sec": all_sec - batch_sec,
        "disk_bytes_per_entry": disk_bytes(Path(folder)) / bench.size,
    }


def weigh(settings: Settings, name: str, folder: str) -> dict[str, Any]:
    """Open a filled store, answer a few queries, and say what that took of the RAM."""
    bench = Bench(settings)
    queries = bench.queries
    system = SYSTEMS[name](Path(folder), settings)
    before = anonymous_bytes()
    started = time.perf_counter()
    system.open()
    opened = time.perf_counter()
    system.search(queries.scenes[0])
    answered = time.perf_counter()
    if isinstance(system, OurMemory):
        wait_until_idle(system.memory)
    for query in queries.scenes[:_ANSWERS]:
        system.search(query)
    ram = anonymous_bytes() - before
    system.close()
    return {
        "ram_bytes_per_entry": ram / bench.size,
        "ram_bytes": ram,
        "open_sec": opened - started,
        "first_answer_sec": answered - started,
    }


def compare(settings: Settings, name: str, folder: str, memory_folder: str) -> dict[str, Any]:
    """Ask a peer, exact FAISS and the memory for scenes in turns."""
    bench = Bench(settings)
    peer = SYSTEMS[name](Path(folder), settings)
    peer.open()
    memory = open_memory(Path(memory_folder), settings, durable=False)
    wait_until_idle(memory)
    exact = BareFaiss(bench.gallery, "Flat", [Modality.SCENE])
    found: dict[str, Any] = {
        direction: _compared(bench, peer, memory, exact, direction)
        for direction in ("scenes by image", "scenes by text")
    }
    if peer.can_filter:
        found["filtered"] = {group: _filtered(bench, peer, group) for group in _FILTERED}
    memory.close()
    peer.close()
    return found


def open_once(settings: Settings, folder: str) -> dict[str, Any]:
    """Open a memory in a fresh process: until it is open, has answered, and is idle."""
    query = Generator(settings.recipe).queries(1)
    started = time.perf_counter()
    memory = open_memory(Path(folder), settings, durable=True)
    opened = time.perf_counter()
    search_memory(memory, DIRECTIONS["scenes by image"], one(query, 0))
    answered = time.perf_counter()
    wait_until_idle(memory)
    idle = time.perf_counter()
    entries, index = memory.stats().entries, index_facts(memory)
    memory.close()
    return {
        "open_sec": opened - started,
        "first_answer_sec": answered - started,
        "idle_sec": idle - started,
        "entries": entries,
        "index": index,
    }


def add_and_wait(settings: Settings, folder: str, count: str) -> dict[str, Any]:
    """Add entries, say so, and wait to be killed."""
    memory = open_memory(Path(folder), settings, durable=True)
    wait_until_idle(memory)
    extra = Generator(settings.recipe).queries(int(count))
    labels = Labels(settings.recipe.size, settings.recipe.seed)
    rows = np.arange(settings.recipe.size, settings.recipe.size + int(count))
    for start in range(0, int(count), 256):
        part = slice(start, start + 256)
        memory.add(labels.entries(rows[part]), extra.scenes[part], extra.instructions[part])
    print("added", flush=True)
    sys.stdin.read()
    os._exit(1)  # the parent went away instead of killing: still no clean stop


def one(pairs: Pairs, row: int) -> Pairs:
    """One pair, vectors of shape ``(dim,)``."""
    return Pairs(pairs.scenes[row], pairs.instructions[row])


def rows_of(pairs: Pairs, start: int, stop: int) -> Pairs:
    """Some pairs, copied out of the files that hold them."""
    return Pairs(np.array(pairs.scenes[start:stop]), np.array(pairs.instructions[start:stop]))


def _add_rows(system: System, bench: Bench, start: int, stop: int, step: int) -> float:
    seconds = 0.0
    for first in range(start, stop, step):
        rows = np.arange(first, min(first + step, stop))
        pairs = rows_of(bench.gallery, first, first + len(rows))
        begun = time.perf_counter()
        system.add(rows, pairs, bench.labels)
        seconds += time.perf_counter() - begun
    return seconds


def _compared(
    bench: Bench, peer: System, memory: Memory, exact: BareFaiss, direction: str
) -> dict[str, Any]:
    sides, queries = DIRECTIONS[direction], bench.queries
    asked = half_of(queries, sides[0].asked_by)
    laps = interleave(
        {
            "peer": lambda turn: peer.search(asked[turn]),
            "memory": lambda turn: search_memory(memory, sides, one(queries, turn)),
            "faiss flat": lambda turn: exact.search(sides, one(queries, turn)),
        },
        len(queries), bench.settings.seconds / 4, burst=BURST,
    )  # fmt: skip
    truth = Truth(bench.gallery, rows_of(queries, 0, laps.rounds), sides, K)
    return {
        "queries": laps.rounds,
        **laps.latency("peer"),
        "recall_at_10": truth.recall(laps.answers["peer"]),
        "memory_recall_at_10": truth.recall(laps.answers["memory"]),
        "ratio_to_faiss_flat": laps.ratio("peer", "faiss flat"),
        "ratio_to_memory": laps.ratio("peer", "memory"),
    }


def _filtered(bench: Bench, peer: System, group: str) -> dict[str, Any]:
    asked = bench.queries.scenes
    laps = interleave(
        {
            "filtered": lambda turn: peer.search_group(asked[turn], group),
            "unfiltered": lambda turn: peer.search(asked[turn]),
        },
        bench.settings.queries, bench.settings.seconds / 8, burst=BURST,
    )  # fmt: skip
    _, rows = bench.labels.filter("metadata", group) or (None, None)
    sides = DIRECTIONS["scenes by image"]
    truth = Truth(bench.gallery, rows_of(bench.queries, 0, laps.rounds), sides, K, rows)
    return {
        **laps.latency("filtered"),
        "ratio_to_unfiltered": laps.ratio("filtered", "unfiltered"),
        "recall_at_10": truth.recall(laps.answers["filtered"]),
    }


TASKS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "fill": fill,
    "weigh": weigh,
    "compare": compare,
    "open": open_once,
    "add and wait": add_and_wait,
}
