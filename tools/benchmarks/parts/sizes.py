"""Bytes an entry, in RAM and on the disk, each system in a process of its own."""

from __future__ import annotations

from typing import Any

from tools.benchmarks.bench import Bench
from tools.benchmarks.children import ask_child
from tools.benchmarks.stored import stored_system
from tools.benchmarks.systems import ExactFaiss, OurMemory


def measure(bench: Bench) -> dict[str, Any]:
    """The memory and exact FAISS over the scenes."""
    found = {}
    for system in (OurMemory, ExactFaiss):
        folder, filled = stored_system(bench, system.name)
        found[system.name] = {
            **ask_child("weigh", bench.settings, system.name, str(folder)),
            "disk_bytes_per_entry": filled["disk_bytes_per_entry"],
            "note": system.note,
        }
    return found
