"""The launch files bring up what they say, where launch is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.ros.parameters import AUTOSTART, Settings

from .harness import START_SEC, WAIT_SEC, Robot

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation only")
LAUNCH = Path(__file__).parents[2] / "launch"


def load(name: str) -> ModuleType:
    """Import a launch file."""
    spec = importlib.util.spec_from_file_location(name.partition(".")[0], LAUNCH / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_evaluation_starts_a_node_plays_a_bag_into_it_and_leaves_a_report(
    domain: int, tmp_path: Path
) -> None:
    ros2 = shutil.which("ros2")
    if ros2 is None:
        pytest.skip("the command ros2 comes with a ROS 2 installation only")
    out = tmp_path / "report"
    demo = LAUNCH.parent / "demo"
    log = tmp_path / "launch.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [ros2, "launch", "vla_retrieval", "replay_evaluation.launch.py", f"bag:={demo / 'bag'}",
             f"out:={out}", "rate:=4.0", f"relevance:=labels:{demo / 'tasks.yaml'}",
             "model:=double", "options:=--depth 10 --seed 1"],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        # It ends by itself when the evaluation does.
        process.wait(4 * WAIT_SEC)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(WAIT_SEC)
    assert (out / "index.html").is_file(), log.read_text()
    live = read_json(out / "evaluation.json").live
    assert live is not None
    assert 0 < live.frames_answered <= live.frames_played
    assert live.frames_played == live.frames_answered + sum(live.drops.values())
    assert "process has died" not in log.read_text()


def test_each_parameter_argument_is_a_parameter_of_the_node_with_its_type() -> None:
    types = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
    types[AUTOSTART] = bool
    for name, (kind, _) in load("retrieval.launch.py").PARAMETERS.items():
        assert types[name] is kind


def test_the_node_comes_up_in_its_namespace_with_its_arguments(
    robot: Robot, tmp_path: Path
) -> None:
    ros2 = shutil.which("ros2")
    if ros2 is None:
        pytest.skip("the command ros2 comes with a ROS 2 installation only")
    log = tmp_path / "launch.log"
    arguments = ["model:=double", f"memory_dir:={tmp_path / 'memory'}", "query_rate_hz:=4", "k:=3"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [ros2, "launch", "vla_retrieval", "retrieval.launch.py", *arguments],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        alive = lambda: process.poll() is None  # noqa: E731
        assert robot.client.wait_until_active(alive, START_SEC), log.read_text()
        stats = robot.call("get_stats")
        assert stats.memory_dir == str(tmp_path / "memory")
        assert stats.model == "double"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(WAIT_SEC)
    assert "process has finished cleanly" in log.read_text()
