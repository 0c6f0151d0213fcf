"""Measure the memory beside FAISS, SQLite and other vector stores, on galleries made from a seed.

``python -m tools.benchmarks.memory --size 100000`` prints a table a part. What counts are the
ratios: each is between two systems that took turns, with its 10th and 90th percentile over the
rounds. Galleries and filled memories are kept in the work folder and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.benchmarks import report, slow_disk
from tools.benchmarks.bench import Bench, Settings
from tools.benchmarks.data import SETTINGS, Recipe
from tools.benchmarks.machine import facts
from tools.benchmarks.parts import adds, filters, opening, peers, search, sizes
from tools.benchmarks.peers import PEERS
from tools.benchmarks.systems import has_options
from vla_retrieval.memory.options import INDEX_CHOICES

PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "search": search.measure,
    "filter": filters.measure,
    "adds": adds.measure,
    "open": opening.measure,
    "bytes": sizes.measure,
    "peers": peers.measure,
}
_WIDTH = 170


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and optionally write everything as JSON."""
    options = _parser().parse_args(arguments)
    recipe = Recipe(options.size, options.setting, seed=options.seed)
    settings = Settings(
        recipe=recipe, work=options.work.resolve(), index=options.index,
        index_bytes=options.index_bytes, queries=options.queries, seconds=options.seconds,
        rounds=options.rounds, budget_sec=options.budget_sec, peers=tuple(options.peers),
        bare=not options.no_bare,
    )  # fmt: skip
    settings.work.mkdir(parents=True, exist_ok=True)
    if options.sync_ms and not slow_disk.added_ms():
        slow_disk.restart(options.sync_ms, settings.work)
    bench = Bench(settings)
    if options.fresh:
        shutil.rmtree(bench.folder, ignore_errors=True)
    # Wide tables stay whole in a file; on a terminal rich wraps them.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    machine = facts(settings.work) | {
        "sync_ms": slow_disk.sync_ms(settings.work), "sync_added_ms": slow_disk.added_ms()
    }  # fmt: skip
    _introduce(console, bench, machine)
    parts = list(PARTS) if "all" in options.part else options.part
    found = {}
    for part in parts:
        found[part] = PARTS[part](bench)
        report.show(console, part, found[part])
        if options.json:  # after each part: a long run that is stopped has shown something
            chosen = {n: v for n, v in asdict(settings).items() if n != "work"}
            everything = {"machine": machine, "settings": chosen, "parts": found}
            options.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


def _introduce(console: Console, bench: Bench, machine: dict[str, object]) -> None:
    settings = bench.settings
    versions = machine["versions"]
    said = ", ".join(f"{n} {v}" for n, v in versions.items()) if isinstance(versions, dict) else ""
    busy = os.getloadavg()[0]
    console.print(
        f"{bench.size:,} pairs of {bench.dim} dimensions, {settings.recipe.setting}; index"
        f" {settings.index}\n{machine['cpu']}, {machine['cores']} cores (load {busy:.1f}),"
        f" {machine['ram_gib']} GiB, {machine['file_system']}, a sync takes"
        f" {machine['sync_ms']:.2f} ms ({machine['sync_added_ms']:g} ms of it added);"
        f" SQLite {machine['sqlite']}, {said}",
        highlight=False,
    )
    if not has_options():
        console.print("This memory has one index, an exact one: --index has no effect.")
    if machine["file_system"] in ("tmpfs", "ramfs"):
        console.print("The work folder is in RAM: its figures for adds and opens mean nothing.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the memory beside other systems.")
    parser.add_argument("--size", type=int, default=10_000, help="entries in the gallery")
    parser.add_argument("--setting", choices=SETTINGS, default="clustered")
    parser.add_argument("--part", nargs="+", choices=[*PARTS, "all"], default=["all"])
    parser.add_argument("--index", choices=INDEX_CHOICES, default="auto")
    parser.add_argument("--index-bytes", type=int, help="RAM that the memory's index may take")
    parser.add_argument("--queries", type=int, default=400, help="most queries a measurement")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="no new round of a measurement begins after it"
    )
    parser.add_argument("--rounds", type=int, default=5, help="opens of each state")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[], help="only these")
    parser.add_argument(
        "--budget-sec", type=float, default=300.0, help="seconds to fill one of the peers"
    )
    parser.add_argument("--seed", type=int, default=Recipe(1).seed)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "vla_retrieval_benchmark",
        help="folder for galleries and memories, 10 kB an entry; not in RAM",
    )  # fmt: skip
    parser.add_argument(
        "--sync-ms", type=float, default=0.0, metavar="MS",
        help="every fsync so much longer, for the memory and SQLite alike: a slower disk",
    )  # fmt: skip
    parser.add_argument("--no-bare", action="store_true", help="no bare index of the same kind")
    parser.add_argument("--fresh", action="store_true", help="make this gallery's folder anew")
    parser.add_argument("--json", type=Path, help="also write everything here")
    return parser


if __name__ == "__main__":
    main()
