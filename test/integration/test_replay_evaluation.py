"""A running node is evaluated with the demonstration bag, and ranks as the offline evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.evaluation.results import Evaluation
from vla_retrieval.experiments.searching import DIRECTIONS

from .harness import START_SEC, NodeProcess, Robot, picture

DEMO = Path(__file__).parents[2] / "demo"
LIVE_SEC = 240


def replay(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run ``replay_evaluation`` on the demonstration bag with the test double."""
    command = [sys.executable, "-m", "vla_retrieval.cli.replay_evaluation", str(DEMO / "bag")]
    command += ["--out", str(out), "--model", "double", "--seed", "1", "--rate", "5"]
    command += ["--relevance", f"labels:{DEMO / 'tasks.yaml'}", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIVE_SEC, check=False)


@pytest.fixture
def ready(start: Callable[..., NodeProcess], robot: Robot) -> NodeProcess:
    """Return an active node for compressed images whose parameters are unlike a replay's."""
    node = start(image_transport="compressed", k=3, query_target="scenes")
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def parameters(robot: Robot) -> dict[str, Any]:
    from vla_retrieval.ros.replay_node import NodeParameters

    return NodeParameters(robot.client).get(["k", "query_target", "query_mode", "min_score"])


def check_agreement(found: Evaluation) -> None:
    assert found.live is not None
    assert set(found.live.agreement) == set(DIRECTIONS)
    for direction, agreement in found.live.agreement.items():
        assert agreement.both == found.directions[direction].queries > 0
        assert agreement.different == 0, direction
        assert agreement.score_difference < 1e-5


def test_a_running_node_ranks_as_the_offline_evaluation(
    ready: NodeProcess, robot: Robot, tmp_path: Path
) -> None:
    before = parameters(robot)
    done = replay(tmp_path / "report")
    assert done.returncode == 0, done.stderr + ready.log
    found = read_json(tmp_path / "report" / "evaluation.json")
    live = found.live
    assert live is not None
    check_agreement(found)
    assert live.frames_played == found.counts["queries"]
    assert live.frames_played == live.frames_answered + sum(live.drops.values())
    assert live.latency_ms.calls == live.frames_answered == found.directions["pair"].queries
    assert live.frame_age_ms.p50_ms <= live.latency_ms.p50_ms
    assert live.stages["encode image"].calls == live.frames_answered
    assert parameters(robot) == before
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    for text in ("skipped for a newer frame", "staleness", "largest difference of scores"):
        assert text in page


def test_a_node_that_remembers_something_is_not_filled(
    ready: NodeProcess, robot: Robot, tmp_path: Path
) -> None:
    from .harness import image_message

    added = robot.call("remember", image=image_message(picture(1), 1), instruction="go")
    assert added.success
    done = replay(tmp_path / "report", "--no-offline", "--json")
    assert done.returncode == 1
    assert "memory_size" in json.loads(done.stdout)["error"]["message"]
    assert "another memory_dir" in done.stderr
    assert robot.call("get_stats").memory_size == 1
    assert not (tmp_path / "report").exists()


def test_another_model_than_the_nodes_is_refused_before_anything_is_remembered(
    ready: NodeProcess, robot: Robot, tmp_path: Path
) -> None:
    done = replay(tmp_path / "report", "--model", "vla-retrieval-demo")
    assert done.returncode == 1
    assert "model: expected the node's" in done.stderr
    assert robot.call("get_stats").memory_size == 0
