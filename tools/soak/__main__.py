"""Loads a node as a long working day does, and prints how it held.

A camera at 30 Hz in looped simulated time, instructions that change, ten questions and five new
pairs a second, entries that are read again and forgotten, parameters that change, a viewer that
comes and goes; the memory is full from the start, so that what grows is a leak.

It takes a ROS domain that no test on this machine uses; where ROS_DOMAIN_ID names one, nobody else
may be in it: another node of that name would answer in this one's place.

Exit code 1 when a call failed, an acknowledged entry is lost, ``memory check`` finds something, or
the node did not end with 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domain_coordinator import domain_id
from rich.console import Console
from rich.table import Table

from tools.soak.soak import Result, Settings, soak

_SHOWN = 10


def main(argv: list[str] | None = None) -> int:
    """Soak, and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=900.0, help="measured load (default 900)")
    parser.add_argument(
        "--warm-up", type=float, default=180.0, metavar="SEC",
        help="load before it, in which caches fill (default 180)",
    )  # fmt: skip
    parser.add_argument(
        "--entries", type=int, default=2000, help="bound of the memory (default 2000)"
    )
    parser.add_argument(
        "--model", default="vla-retrieval-demo",
        help="the node's model (default vla-retrieval-demo; double: the tests' own, quick)",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, help="keep memory and log in this new folder")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, _domain():
        result = soak(
            Settings(
                args.work or Path(folder), args.seconds, args.warm_up, args.entries, args.model
            )
        )
    if args.json:
        args.json.write_text(json.dumps(dataclasses.asdict(result), indent=1))
    report(result, Console())
    return 1 if result.failures or result.lost or result.check or result.exit_code else 0


@contextmanager
def _domain() -> Iterator[None]:
    """Hold a ROS domain of its own, unless the environment names one."""
    if os.environ.get("ROS_DOMAIN_ID"):
        yield
        return
    with domain_id() as number:
        os.environ["ROS_DOMAIN_ID"] = str(number)
        yield


def report(result: Result, console: Console) -> None:
    """Print what was found."""
    table = Table("", "count", "a second", "p50 ms", "p99 ms", "longest ms")
    for what in sorted({*result.counts, *result.latency_ms}):
        times = result.latency_ms.get(what)
        count = result.counts.get(what)
        rate = "" if count is None else f"{count / result.seconds:.1f}"
        shown = [f"{value:.1f}" for value in times] if times else ["", "", ""]
        table.add_row(what, "" if count is None else str(count), rate, *shown)
    console.print(table)
    first, last = result.resident_mb
    console.print(
        f"resident memory {first:.1f} MB, at the end {last:.1f} MB: {result.growth}; "
        f"anonymous part {result.anonymous_growth}", markup=False,
    )  # fmt: skip
    console.print(
        f"in use of it: allocated {result.allocated_growth}; Python's small objects "
        f"{result.blocks_growth}", markup=False,
    )  # fmt: skip
    console.print(
        f"entries acknowledged {result.acknowledged}, forgotten {result.forgotten}, named as "
        f"evicted {result.evicted}, stored {result.stored}, lost {len(result.lost)}"
    )
    console.print(f"memory check: {result.check or 'clean'}", markup=False)
    console.print(f"exit code of the node: {result.exit_code}")
    console.print(f"failures: {len(result.failures)}")
    for line in [*result.lost, *result.failures][:_SHOWN]:
        console.print(f"  {line}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
