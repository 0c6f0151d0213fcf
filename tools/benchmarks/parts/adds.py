"""How fast entries are stored, beside what SQLite itself takes to commit as many bytes.

The memory holds the whole gallery already; SQLite's table begins empty, which makes no difference
to a commit. Both are on the same disk, and take turns; measured are not the first seconds after a
start but the months that follow.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks.bench import Bench
from tools.benchmarks.data import Generator, Pairs
from tools.benchmarks.entries import payload_bytes
from tools.benchmarks.measuring import interleave
from tools.benchmarks.stored import fresh_copy, stored_system
from tools.benchmarks.systems import open_memory, wait_until_idle
from vla_retrieval.memory import Memory

_EXTRA = 4096  # different entries, taken again from the first when they are over
_ROUNDS = {1: 2000, 256: 40, 1024: 20}
_WARM_UP_ROWS = 1024
"""Not measured: until both logs have begun anew, in the room that their files have from then on.

A commit that makes the file longer takes up to twice as long, and comes after a start only."""


def measure(bench: Bench) -> dict[str, Any]:
    """Single and batched adds, with and without waiting for the disk."""
    folder, filled = stored_system(bench, "memory")
    found: dict[str, Any] = {"filling": filled}
    extra = Generator(bench.settings.recipe).queries(_EXTRA)
    for durable in (True, False):
        copy = fresh_copy(folder, "copy-adds")
        memory = open_memory(copy, bench.settings, durable=durable)
        wait_until_idle(memory)
        rival = bench.folder / "commits"
        shutil.rmtree(rival, ignore_errors=True)
        rival.mkdir()
        database = _plain_sqlite(rival / "rows.sqlite3", durable=durable)
        found["durable" if durable else "not durable"] = {
            str(batch): _batch(bench, memory, database, extra, batch) for batch in _ROUNDS
        }
        memory.close()
        database.close()
        shutil.rmtree(copy)
        shutil.rmtree(rival)
    return found


def _batch(
    bench: Bench, memory: Memory, database: sqlite3.Connection, extra: Pairs, batch: int
) -> dict[str, Any]:
    rows = np.arange(bench.size, bench.size + batch)
    entries = bench.labels.entries(rows)
    blobs = [(bytes(payload_bytes(entry, bench.dim)),) for entry in entries]

    def add(turn: int) -> None:
        start = turn * batch % _EXTRA  # a multiple of the batch, which divides it
        some = slice(start, start + batch)
        memory.add(entries, extra.scenes[some], extra.instructions[some])

    def commit(turn: int) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO rows (bytes) VALUES (?)", blobs)
        database.execute("COMMIT")

    for turn in range(max(1, _WARM_UP_ROWS // batch)):
        add(turn)
        commit(turn)
    laps = interleave({"memory": add, "sqlite": commit}, _ROUNDS[batch], bench.settings.seconds / 2)
    return {
        "rounds": laps.rounds,
        "bytes": len(blobs[0][0]),
        # Of all rounds together: a checkpoint comes in some of them only, and belongs to the price.
        "adds_per_sec": batch * laps.rounds / float(laps.seconds["memory"].sum()),
        "sqlite_rows_per_sec": batch * laps.rounds / float(laps.seconds["sqlite"].sum()),
        "ratio_of_sums": float(laps.seconds["sqlite"].sum() / laps.seconds["memory"].sum()),
        "p99_ms": laps.latency("memory")["p99_ms"],
        # Of rates, so the times the other way round.
        "ratio_to_sqlite": laps.ratio("sqlite", "memory"),
    }


def _plain_sqlite(file: Path, *, durable: bool) -> sqlite3.Connection:
    """One table with one blob a row, committed as the memory commits: WAL, FULL or NORMAL."""
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    database.execute("CREATE TABLE rows (row_id INTEGER PRIMARY KEY, bytes BLOB NOT NULL)")
    return database
