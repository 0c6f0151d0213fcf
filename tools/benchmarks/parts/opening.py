"""How long opening takes, beside reading all bytes of the directory in the same state of the cache.

Each open is in a fresh process. ``clean`` was closed; ``killed`` got entries and then SIGKILL, so
that its index has something to catch up with.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks.bench import Bench
from tools.benchmarks.children import ROOT, ChildError, ask_child, command, environment
from tools.benchmarks.machine import cached_share, disk_bytes, evict, read_all
from tools.benchmarks.measuring import spread
from tools.benchmarks.stored import fresh_copy, stored_system

_CATCH_UP = 10_000


def measure(bench: Bench) -> dict[str, Any]:
    """Every state of the directory and of the cache, in turns."""
    folder, _ = stored_system(bench, "memory")
    killed = fresh_copy(folder, "copy-killed")
    extra = min(_CATCH_UP, bench.size)
    _add_and_kill(bench, killed, extra)
    states = {"clean": folder, "killed": killed}
    rounds: dict[str, list[dict[str, Any]]] = {}
    for _ in range(bench.settings.rounds):
        for state, source in states.items():
            for cache in ("warm", "cold"):
                opened = _open_copy(bench, source, cold=cache == "cold")
                expected = bench.size + (extra if state == "killed" else 0)
                if opened["entries"] != expected:
                    raise ChildError(f"{state}: {opened['entries']} entries, not {expected}")
                rounds.setdefault(f"{state}, {cache}", []).append(opened)
    shutil.rmtree(killed)
    return {"caught_up": extra, "states": {name: _summary(laps) for name, laps in rounds.items()}}


def _open_copy(bench: Bench, source: Path, *, cold: bool) -> dict[str, Any]:
    """Open a copy: an open may tidy up, and the next round must find what this one found."""
    copy = fresh_copy(source, "copy-open")
    evict(copy)  # waits for the disk too, or the writing of the copy would be measured
    if not cold:
        read_all(copy)
    reading = read_all(copy)
    if cold:
        evict(copy)
    cached, size = cached_share(copy), disk_bytes(copy)
    opened = ask_child("open", bench.settings, str(copy))
    shutil.rmtree(copy)
    return {**opened, "read_sec": reading, "cached_share": cached, "bytes": size}


def _summary(laps: list[dict[str, Any]]) -> dict[str, Any]:
    times = {
        name: spread([lap[name] for lap in laps])
        for name in ("open_sec", "first_answer_sec", "idle_sec", "read_sec")
    }
    ratios = [lap["open_sec"] / lap["read_sec"] for lap in laps]
    return {
        "rounds": len(laps),
        **times,
        "ratio_to_reading": spread(ratios),
        "cached_share": float(np.mean([lap["cached_share"] for lap in laps])),
        "bytes": laps[-1]["bytes"],
        "index": laps[-1]["index"],
    }


def _add_and_kill(bench: Bench, folder: Path, count: int) -> None:
    line = command("add and wait", bench.settings, str(folder), str(count))
    child = subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:  # closes its pipes, which ends it should it still live
        assert child.stdout is not None
        said = child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    if said.strip() != "added":
        raise ChildError(f"the child that was to be killed ended before it had added {count}")
