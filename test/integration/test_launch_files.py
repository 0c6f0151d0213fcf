"""The launch files bring up what they say, where launch is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.ros.parameters import AUTOSTART, Settings

from .harness import START_SEC, WAIT_SEC, Robot, wait_until
from .launched import launch, say

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation only")
LAUNCH = Path(__file__).parents[2] / "launch"
DEMO = LAUNCH.parent / "demo"
FILES = sorted(path.name for path in LAUNCH.glob("*.py"))

# What a robot's own launch file looks like: it includes the package's, and plays a bag beside it.
COMPOSED = """
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare
from launch.substitutions import PathJoinSubstitution

def generate_launch_description():
    file = PathJoinSubstitution(
        [FindPackageShare("vla_retrieval"), "launch", "retrieval.launch.py"])
    arguments = {arguments}
    return LaunchDescription([
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(file), launch_arguments=arguments.items()),
        Node(package="vla_retrieval", executable="play_bag", name="player", namespace="robot",
             arguments=["{bag}", "--loop", "--rate", "4"],
             remappings=[("/camera/image/compressed", "eye/compressed"), ("/instruction", "task")]),
    ])
"""
# Stands in for RViz, which is not asked to draw here: what would it subscribe to?
RVIZ = """#!/usr/bin/env python3
import sys, yaml, rclpy
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray
kinds = {"rviz_default_plugins/Image": Image, "rviz_default_plugins/MarkerArray": MarkerArray}
rclpy.init()
node = rclpy.create_node("rviz2")
file = sys.argv[sys.argv.index("-d") + 1]
for display in yaml.safe_load(open(file))["Visualization Manager"]["Displays"]:
    if "Topic" in display:
        node.create_subscription(
            kinds[display["Class"]], display["Topic"]["Value"], lambda _: None, 1)
try:
    rclpy.spin(node)
except KeyboardInterrupt:
    pass
"""


def load(name: str) -> ModuleType:
    """Import a launch file."""
    spec = importlib.util.spec_from_file_location(name.partition(".")[0], LAUNCH / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def context_of(module: ModuleType, **given: str) -> Any:
    """Return the context in which a launch file is run with these arguments."""
    from launch.utilities import perform_substitutions

    from launch import LaunchContext

    context = LaunchContext()
    for argument in module.generate_launch_description().get_launch_arguments():
        default = perform_substitutions(context, argument.default_value or [])
        context.launch_configurations[argument.name] = given.get(argument.name, default)
    return context


@pytest.mark.parametrize("name", FILES)
def test_each_argument_of_a_launch_file_is_described(name: str) -> None:
    arguments = load(name).generate_launch_description().get_launch_arguments()
    assert arguments
    assert all(len(argument.description) > 10 for argument in arguments)


@pytest.mark.parametrize(
    ("name", "describe"),
    [("retrieval.launch.py", "_node"), ("replay_evaluation.launch.py", "_processes")],
)
def test_no_node_is_started_with_defaults_in_the_place_of_a_parameter_file_that_is_not_there(
    name: str, describe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(name)
    monkeypatch.setattr(module, "_image_transport", lambda _: "raw", raising=False)
    context = context_of(module, bag="bag", out="report", params_file="~/no/robot.yaml")

    with pytest.raises(InvalidInputError, match=r"params_file: .*no/robot\.yaml"):
        getattr(module, describe)(context)


def test_a_number_that_is_none_is_refused_by_the_arguments_name() -> None:
    module = load("retrieval.launch.py")
    for name, given in (("k", "abc"), ("k", "2.5"), ("query_rate_hz", "often")):
        with pytest.raises(InvalidInputError, match=rf"{name}: expected a .*number, got '{given}'"):
            module._node(context_of(module, **{name: given}))


def test_an_evaluations_home_paths_are_one_place_for_the_node_and_for_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch_ros.utilities import evaluate_parameters

    monkeypatch.setenv("HOME", str(tmp_path))
    module = load("replay_evaluation.launch.py")
    asked: list[list[str]] = []
    monkeypatch.setattr(module, "_image_transport", lambda a: asked.append(a) or "raw")
    context = context_of(module, bag="~/bag", out="~/report #1")
    node, evaluation = module._processes(context)

    *_, given = evaluate_parameters(context, node._Node__parameters)
    assert given["memory_dir"] == f"{tmp_path}/report #1.memory"
    for said in (evaluation._Node__arguments, asked[0]):
        assert {f"{tmp_path}/bag", f"--out={tmp_path}/report #1"} <= set(said)


def test_an_evaluation_starts_a_node_plays_a_bag_into_it_and_leaves_a_report(
    domain: int, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    with launch(
        tmp_path, "vla_retrieval", "replay_evaluation.launch.py", f"bag:={DEMO / 'bag'}",
        f"out:={out}", "rate:=4.0", f"relevance:=labels:{DEMO / 'tasks.yaml'}",
        "model:=double", "options:=--depth 10 --seed 1",
    ) as launched:  # fmt: skip
        # It ends by itself when the evaluation does.
        launched.process.wait(4 * WAIT_SEC)
    assert (out / "index.html").is_file(), launched.log
    live = read_json(out / "evaluation.json").live
    assert live is not None
    assert launched.process.returncode == 0
    assert 0 < live.frames_answered <= live.frames_played
    assert live.frames_played == live.frames_answered + sum(live.drops.values())
    assert "process has died" not in launched.log


def test_an_evaluation_that_fails_fails_the_launch_for_ci_to_see(
    domain: int, tmp_path: Path
) -> None:
    with launch(
        tmp_path, "vla_retrieval", "replay_evaluation.launch.py", f"bag:={DEMO / 'bag'}",
        f"out:={tmp_path / 'report'}", "relevance:=colour", "model:=double",
    ) as launched:  # fmt: skip
        launched.process.wait(4 * WAIT_SEC)
    assert launched.process.returncode == 1, launched.log
    assert "relevance: expected" in launched.log
    assert "ended with exit code 1" in launched.log
    # The node is ended with it, and in order.
    assert "retrieval_node-1]: process has finished cleanly" in launched.log


@pytest.mark.parametrize(
    ("name", "code", "fails"),
    [
        ("replay_evaluation-2", 0, False),
        ("replay_evaluation-2", 1, True),
        ("replay_evaluation-2", 130, True),  # told to end by somebody else than the launch
        ("retrieval_node-1", 0, True),  # before the evaluation was done
        ("retrieval_node-1", -9, True),
    ],
)
def test_who_ends_first_decides_how_an_evaluations_launch_ends(
    name: str, code: int, *, fails: bool
) -> None:
    module = load("replay_evaluation.launch.py")
    event = SimpleNamespace(process_name=name, returncode=code)
    if fails:
        with pytest.raises(RuntimeError, match=f"{name} ended with exit code {code}"):
            module._ended(event, SimpleNamespace(is_shutdown=False))
    else:
        assert module._ended(event, SimpleNamespace(is_shutdown=False)) is not None
    # What ends because the launch ends says nothing more: a node may have to be killed.
    assert module._ended(event, SimpleNamespace(is_shutdown=True)) is None


def test_no_node_is_left_behind_where_rviz_is_wanted_and_not_installed(
    domain: int, tmp_path: Path
) -> None:
    with launch(
        tmp_path, "vla_retrieval", "retrieval.launch.py", "rviz:=true", "model:=double",
        f"memory_dir:={tmp_path / 'memory'}",
    ) as launched:  # fmt: skip
        launched.process.wait(WAIT_SEC)
    assert launched.process.returncode == 1
    assert "'rviz2' not found" in launched.log
    assert "process started" not in launched.log


@pytest.mark.parametrize(
    ("pushed", "given", "logger"),
    [
        ("", "", "retrieval"),
        ("", "robot", "robot.retrieval"),
        ("/cell", "", "cell.retrieval"),
        ("/cell", "robot", "cell.robot.retrieval"),
        ("/cell", "/robot", "robot.retrieval"),
    ],
)
def test_the_log_level_reaches_the_node_in_any_namespace(
    pushed: str, given: str, logger: str
) -> None:
    module = load("retrieval.launch.py")
    context = context_of(module, namespace=given)
    if pushed:
        context.launch_configurations["ros_namespace"] = pushed
    assert module._logger(context) == logger


def test_the_demonstration_draws_its_picture_and_ends(domain: int, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    with launch(tmp_path, "vla_retrieval", "demo.launch.py", f"output_dir:={out}") as launched:
        launched.process.wait(4 * WAIT_SEC)
    assert (out / "contact_sheet.png").is_file(), launched.log
    assert "process has finished cleanly" in launched.log


def test_each_parameter_argument_is_a_parameter_of_the_node_with_its_type() -> None:
    types = {field.name: type(field.default) for field in dataclasses.fields(Settings)}
    types[AUTOSTART] = bool
    for name, (kind, _) in load("retrieval.launch.py").PARAMETERS.items():
        assert types[name] is kind


def test_the_node_comes_up_with_its_arguments_and_ends_cleanly(
    robot: Robot, tmp_path: Path
) -> None:
    with launch(
        tmp_path, "vla_retrieval", "retrieval.launch.py", "model:=double",
        f"memory_dir:={tmp_path / 'memory'}", "query_rate_hz:=4", "k:=3",
    ) as launched:  # fmt: skip
        assert robot.client.wait_until_active(launched.is_alive, START_SEC), launched.log
        stats = robot.call("get_stats")
        assert stats.memory_dir == str(tmp_path / "memory")
        assert stats.model == "double"
    assert "process has finished cleanly" in launched.log


def test_a_robots_own_launch_file_composes_the_node_with_a_bag_and_is_operated_by_ros2(
    domain: int, tmp_path: Path
) -> None:
    """Namespace, remappings, lifecycle, services and parameters, as a person at a shell."""
    arguments = {
        "namespace": "robot", "image_topic": "eye", "instruction_topic": "task",
        "image_transport": "compressed", "remember_mode": "interval", "model": "double",
        "memory_dir": str(tmp_path / "memory"), "autostart": "false",
        "remember_interval_sec": "0.1",
    }  # fmt: skip
    file = tmp_path / "robot.launch.py"
    file.write_text(COMPOSED.format(arguments=arguments, bag=DEMO / "bag"))
    node = "/robot/retrieval"
    with launch(tmp_path, str(file)) as launched:
        wait_until(
            lambda: "unconfigured" in say("lifecycle", "get", node=node), "an unconfigured node"
        )
        assert "successful" in say("lifecycle", "set", "configure", node=node), launched.log
        refused = say("service", "call", f"{node}/retrieve", "vla_retrieval_msgs/srv/Retrieve")
        assert "success=False" in refused
        assert "configure and activate" in refused
        assert "successful" in say("lifecycle", "set", "activate", node=node)
        assert "successful" in say("param", "set", "k", "2", node=node)
        assert "read at configure" in say("param", "set", "model", "ViT-B-32", node=node)
        with_robot = "{instruction: '拿起桌子上的杯子', k: 3}"
        wait_until(
            lambda: "rank=3" in say(
                "service", "call", f"{node}/retrieve", "vla_retrieval_msgs/srv/Retrieve", with_robot
            ),
            "three entries remembered from the bag",
        )  # fmt: skip
        assert "successful" in say("lifecycle", "set", "deactivate", node=node)
        assert "successful" in say("lifecycle", "set", "cleanup", node=node)
        assert "unconfigured" in say("lifecycle", "get", node=node)
        assert launched.is_alive(), launched.log
    assert launched.log.count("process has finished cleanly") == 2, launched.log
    assert "Traceback" not in launched.log


def test_rviz_is_started_on_request_with_the_topics_of_the_nodes_namespace(
    robot: Robot, tmp_path: Path
) -> None:
    prefix = tmp_path / "rviz"
    for folder in ("lib/rviz2", "share/ament_index/resource_index/packages", "share/rviz2"):
        (prefix / folder).mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages/rviz2").touch()
    (prefix / "lib/rviz2/rviz2").write_text(RVIZ)
    (prefix / "lib/rviz2/rviz2").chmod(0o755)
    wanted = {
        "/eye": "sensor_msgs/msg/Image", "/robot/retrieval/contact_sheet": "sensor_msgs/msg/Image",
        "/robot/retrieval/markers": "visualization_msgs/msg/MarkerArray",
    }  # fmt: skip

    def subscribed() -> set[str]:
        ask = robot.client.node
        return {
            topic for topic in wanted
            for info in ask.get_subscriptions_info_by_topic(topic) if info.node_name == "rviz2"
        }  # fmt: skip

    with launch(
        tmp_path, "vla_retrieval", "retrieval.launch.py", "rviz:=true", "namespace:=robot",
        "image_topic:=/eye", "model:=double", f"memory_dir:={tmp_path / 'memory'}",
        environment={"AMENT_PREFIX_PATH": f"{prefix}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}"},
    ) as launched:  # fmt: skip
        wait_until(
            lambda: subscribed() == set(wanted) or not launched.is_alive(), "RViz's subscriptions"
        )
        assert subscribed() == set(wanted), launched.log


def test_only_the_nodes_own_messages_are_at_the_level_that_was_asked_for(
    robot: Robot, tmp_path: Path
) -> None:
    """Those of ROS's libraries are thousands a second."""
    with launch(
        tmp_path, "vla_retrieval", "retrieval.launch.py", "log_level:=debug", "model:=double",
        f"memory_dir:={tmp_path / 'memory'}",
    ) as launched:  # fmt: skip
        assert robot.client.wait_until_active(launched.is_alive, START_SEC), launched.log
    assert "[rcl]" not in launched.log
