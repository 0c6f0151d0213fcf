"""``scripts/benchmark``: measures every stage and the whole in one interleaved run."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

# Before torch is imported, as in the node: see vla_retrieval/ros/main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tools.benchmarks.machine import facts
from tools.benchmarks.pipeline import bench, report, stages, starts

PARTS = ("stages", "throughput", "starts", "load")


def main() -> None:
    """Measure, print, and write what was measured."""
    options = _parser().parse_args()
    settings = bench.settings_of(options)
    settings.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": facts(settings.work), "settings": settings.shown()}
    wanted = [part for part in PARTS if part in options.part]
    if "starts" in wanted:
        found["starts"] = starts.measure(settings)
        _write(found, settings)
    if "stages" in wanted:
        found["stages"] = stages.measure(settings)
        _write(found, settings)
    if "throughput" in wanted:
        if settings.is_on_gpu:
            from tools.benchmarks.pipeline import throughput

            found["throughput"] = throughput.measure(settings)
            _write(found, settings)
        else:
            print("throughput: left out, because it is measured on a GPU")
    if "load" in wanted:
        if bench.has_ros():
            from tools.benchmarks.pipeline import load

            found["load"] = load.measure(settings)
        else:
            print("load: left out, because rclpy or vla_retrieval_msgs is not installed")
    report.show(found)
    _write(found, settings)
    if "stages" in found:
        report.plot(found["stages"], settings.out / "pipeline.png")
    print(f"written: {settings.out / 'pipeline.json'}")


def _write(found: dict[str, Any], settings: bench.Settings) -> None:
    """Write what was measured so far: a later part may fail."""
    (settings.out / "pipeline.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="the demonstration model, 2000 "
                        "entries, few rounds: whether it runs, not how fast it is")  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("build/benchmark"), help="kept between")
    parser.add_argument("--out", type=Path, help="for pipeline.json and .png (the work folder)")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--index", default="auto", help="as the node's parameter")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--limit-sec", type=float, default=240.0, help="of the stages")
    parser.add_argument("--load-sec", type=float, default=120.0, help="of each load")
    for name in ("model", "checkpoint", "device", "engine", "precision"):
        parser.add_argument(f"--{name}", default=bench.DEFAULTS.get(name, "auto"))
    parser.add_argument("--threads", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
