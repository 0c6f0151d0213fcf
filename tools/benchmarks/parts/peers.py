"""The same figures of other vector stores. They index the scenes only, and so are asked for scenes.

Each is filled, weighed and compared in processes of its own, within a time of its own; its ratios
come from a run in which it takes turns with the memory and with exact FAISS.
"""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

from tools.benchmarks.bench import Bench
from tools.benchmarks.children import ChildError, ask_child
from tools.benchmarks.peers import PEERS, SYSTEMS
from tools.benchmarks.stored import stored_system


def measure(bench: Bench) -> dict[str, Any]:
    """The memory, exact FAISS and every peer, or the reason why one is left out."""
    found = {}
    for name in ("memory", "faiss flat", *(bench.settings.peers or PEERS)):
        try:
            found[name] = {**_system(bench, name), "note": SYSTEMS[name].note}
        except ChildError as error:
            found[name] = {"left_out": str(error)}
    return found


def _system(bench: Bench, name: str) -> dict[str, Any]:
    package = SYSTEMS[name].package
    if importlib.util.find_spec(package) is None:
        raise ChildError(f"the package {package} is not installed (requirements/benchmark.txt)")
    settings, budget = bench.settings, bench.settings.budget_sec
    memory, _ = stored_system(bench, "memory")
    if name not in PEERS:
        folder, filled = stored_system(bench, name)
    else:
        folder = bench.folder / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        filled = ask_child(
            "fill", settings, name, str(folder), str(budget), limit_sec=2 * budget + 60
        )
    try:
        if "cut_at" in filled:
            done = filled["cut_at"]
            raise ChildError(f"stored {done:,} of {bench.size:,} entries within {budget:.0f} s")
        weighed = ask_child("weigh", settings, name, str(folder), limit_sec=budget + 60)
        if name == "memory":
            return {**filled, **weighed}
        limit = budget + 4 * settings.seconds + 120
        compared = ask_child("compare", settings, name, str(folder), str(memory), limit_sec=limit)
        return {**filled, **weighed, **compared}
    finally:
        if name in PEERS:
            shutil.rmtree(folder, ignore_errors=True)
