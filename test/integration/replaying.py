"""Evaluates a running node with the demonstration bag."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_retrieval.ros.remote import RemoteParameters

from .harness import WAIT_SEC, Robot

DEMO = Path(__file__).parents[2] / "demo"
REPLAY_SEC = 240
K = 10


def run(
    command: str,
    out: Path,
    *more: str,
    bags: Sequence[Path] = (DEMO / "bag",),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Evaluate bags by the test double."""
    return subprocess.run(
        command_line(command, out, *more, bags=bags), capture_output=True, text=True,
        timeout=REPLAY_SEC, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip


def command_line(
    command: str, out: Path, *more: str, bags: Sequence[Path] = (DEMO / "bag",)
) -> list[str]:
    """Return what evaluates bags by the test double."""
    line = [sys.executable, "-m", f"vla_retrieval.cli.{command}", *map(str, bags)]
    line += ["--out", str(out), "--model", "double", "--seed", "1", "--depth", str(K)]
    return [*line, "--relevance", f"labels:{DEMO / 'tasks.yaml'}", *more]


def parameters(robot: Robot) -> dict[str, Any]:
    """Return the node's parameters that a replay changes."""
    remote = RemoteParameters(robot.client.node, "retrieval", WAIT_SEC)
    names = ["k", "query_target", "scene_weight", "min_score", "query_mode", "use_sim_time"]
    return dict(remote.get(names))
