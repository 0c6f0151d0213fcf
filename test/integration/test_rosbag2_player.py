"""A running node is evaluated by ``ros2 bag play``, or a stand-in for it where it is not there."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock

from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.evaluation.results import Evaluation
from vla_retrieval.experiments.folder import read_trec
from vla_retrieval.experiments.searching import DIRECTIONS

from .harness import START_SEC, WAIT_SEC, NodeProcess, Robot, wait_until
from .replaying import DEMO, command_line, parameters, run

HERE = Path(__file__).parent
RATE = "4"


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which ``ros2 bag`` is a stand-in."""
    folder = tmp_path / "stand_in"
    package = folder / "rosbag2_interfaces"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    # Empty requests and responses, as those of rosbag2_interfaces/srv/Resume.
    (package / "srv.py").write_text("from std_srvs.srv import Empty as Resume\n")
    ros2 = folder / "ros2"
    command = shlex.join([sys.executable, str(HERE / "stand_in_ros2.py")])
    ros2.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    ros2.chmod(0o755)
    paths = [str(folder), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


@pytest.fixture
def real() -> dict[str, str]:
    """Return the environment, if ``ros2 bag`` is in it."""
    ros2 = shutil.which("ros2")
    if ros2 is None or subprocess.run([ros2, "bag", "play", "-h"], capture_output=True).returncode:
        pytest.skip("the command `ros2 bag` comes with a ROS 2 installation only")
    return {}


@pytest.fixture
def ready(start: Callable[..., NodeProcess], robot: Robot) -> NodeProcess:
    """Return an active node for compressed images."""
    node = start(image_transport="compressed", k=3)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def as_sqlite3(folder: Path, seconds: float = math.inf) -> Path:
    """Write the beginning of the demonstration bag in the other storage."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    with (
        Reader(DEMO / "bag") as reader,
        Writer(folder, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        topics = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=types)
            for c in reader.connections
        }
        for connection, stamp_ns, data in reader.messages():
            if stamp_ns - reader.start_time > seconds * 1e9:
                break
            writer.write(topics[connection.topic], stamp_ns, data)
    return folder


def check(found: Evaluation) -> None:
    """Compare what was found live with itself and with the offline evaluation."""
    live = found.live
    assert live is not None
    assert live.player == "ros2 bag"
    assert live.frames_played == found.counts["queries frames"]
    assert live.frames_played == live.frames_answered + sum(live.drops.values())
    # Some are dropped on a busy machine; a stamp, an instruction or a clock gone wrong drops all.
    assert live.frames_answered > live.frames_played / 2
    for direction, one in live.agreement.items():
        assert one.live == one.both == one.same > 0, direction
    assert list(live.agreement) == list(DIRECTIONS)
    # Nothing is answered before it is seen, nor years later, as with the clock of another day.
    # The node's clock is behind the player's by up to two of its steps: an age below that is 0.
    assert live.frame_age_ms.p99_ms > 0
    assert live.frame_age_ms.p50_ms < live.latency_ms.p50_ms < 60_000
    assert live.staleness_ms is not None
    assert live.latency_ms.p50_ms < live.staleness_ms.p50_ms < 60_000


def test_recorded_stamps_and_a_clock_are_enough_to_score_a_node(
    ready: NodeProcess, robot: Robot, tmp_path: Path, stand_in: dict[str, str]
) -> None:
    """By a stand-in."""
    before = parameters(robot)
    out = tmp_path / "live"
    done = run("replay_evaluation", out, "--rate", RATE, environment=stand_in)
    assert done.returncode == 0, done.stderr + ready.log
    assert "frames are played by ros2 bag" in done.stderr
    check(read_json(out / "evaluation.json"))
    assert "played by ros2 bag" in done.stdout
    assert parameters(robot) == before


def test_bags_of_the_same_stamps_are_played_one_after_the_other(
    ready: NodeProcess, tmp_path: Path, stand_in: dict[str, str]
) -> None:
    """By a stand-in. The clock jumps back between the two."""
    bags = [as_sqlite3(tmp_path / name, seconds=16.0) for name in ("one", "two")]
    out = tmp_path / "live"
    done = run("replay_evaluation", out, "--rate", RATE, bags=bags, environment=stand_in)
    assert done.returncode == 0, done.stderr + ready.log
    check(read_json(out / "evaluation.json"))
    answered = {query_id.partition(":")[0] for query_id in read_trec(out, "pair")[1].query_ids}
    assert answered == {"one", "two"}


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_ros2_bag_plays_both_storages_into_a_node(
    ready: NodeProcess, robot: Robot, tmp_path: Path, real: dict[str, str], storage: str
) -> None:
    """By the real one."""
    before = parameters(robot)
    bag = DEMO / "bag" if storage == "mcap" else as_sqlite3(tmp_path / "bag")
    out = tmp_path / "live"
    done = run("replay_evaluation", out, "--rate", RATE, "--player", "ros2bag", bags=[bag])
    assert done.returncode == 0, done.stderr + ready.log
    check(read_json(out / "evaluation.json"))
    assert parameters(robot) == before


def test_a_player_that_fails_ends_the_evaluation_and_leaves_the_node_as_it_was(
    ready: NodeProcess, robot: Robot, tmp_path: Path, stand_in: dict[str, str]
) -> None:
    """By a stand-in."""
    before = parameters(robot)
    out = tmp_path / "live"
    environment = {**stand_in, "STAND_IN_FAILS_AFTER": "20"}
    done = run("replay_evaluation", out, "--rate", RATE, environment=environment)
    assert done.returncode == 1
    assert "exit code 1" in done.stderr
    assert "bad sector" in done.stderr
    assert "--player own" in done.stderr
    assert not out.exists()
    assert parameters(robot) == before


@pytest.mark.parametrize(
    ("after", "reason"),
    [("20", r"ended \d+\.\d s of the bag before the last image, exit code 0"),
     ("0", "ended before it began to play, exit code 0")],
)  # fmt: skip
def test_a_player_that_ends_well_before_its_bag_does_is_a_failure(
    ready: NodeProcess, robot: Robot, tmp_path: Path, stand_in: dict[str, str],
    after: str, reason: str,
) -> None:  # fmt: skip
    """By a stand-in: the real one's exit code is 0 when it cannot read on, or Ctrl-C ends it."""
    before = parameters(robot)
    out = tmp_path / "live"
    environment = {**stand_in, "STAND_IN_ENDS_AFTER": after}
    done = run("replay_evaluation", out, "--rate", RATE, environment=environment)
    assert done.returncode == 1, done.stderr
    assert re.search(reason, done.stderr), done.stderr
    assert ("Failed to play: bad sector" in done.stderr) == (after == "20")
    assert not out.exists()
    assert parameters(robot) == before


@pytest.mark.parametrize("player", ["own", "ros2bag"])
def test_a_node_that_ends_meanwhile_ends_the_evaluation_and_its_player(
    ready: NodeProcess, robot: Robot, tmp_path: Path, stand_in: dict[str, str], player: str
) -> None:
    """Both would play to nobody for minutes; one of them is a stand-in."""
    line = command_line("replay_evaluation", tmp_path / "live", "--rate", "0.1")
    process = subprocess.Popen(
        [*line, "--player", player, "--most-gap-sec", "1000"], env={**os.environ, **stand_in},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: bool(robot.call("get_stats").frames_received), "a player that plays")
        ready.stop()
        _, said = process.communicate(timeout=WAIT_SEC)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "stopped listening to /image/compressed while frames were played" in said
    node = robot.client.node
    wait_until(lambda: not node.count_publishers("/image/compressed"), "the end of the player")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_that_is_told_to_end_takes_its_player_along(
    ready: NodeProcess, robot: Robot, tmp_path: Path, stand_in: dict[str, str], number: int
) -> None:
    """By a stand-in, which would play for eight minutes."""
    before = parameters(robot)
    line = command_line("replay_evaluation", tmp_path / "live", "--rate", "0.1")
    process = subprocess.Popen(line, env={**os.environ, **stand_in}, start_new_session=True)
    node = robot.client.node

    def plays() -> bool:
        assert process.poll() is None
        return bool(robot.call("get_stats").frames_received)

    wait_until(plays, "a player that plays")
    process.send_signal(number)
    assert process.wait(WAIT_SEC) == 130
    wait_until(lambda: not node.count_publishers("/image/compressed"), "the end of the player")
    assert parameters(robot) == before


def test_a_clock_that_somebody_else_publishes_is_left_to_them(
    ready: NodeProcess, robot: Robot, tmp_path: Path, stand_in: dict[str, str]
) -> None:
    robot.client.node.create_publisher(Clock, "/clock", 1)
    done = run("replay_evaluation", tmp_path / "live", "--player", "ros2bag", environment=stand_in)
    assert done.returncode == 1
    assert "somebody publishes /clock already" in done.stderr
    assert robot.call("get_stats").memory_size == 0
    assert not parameters(robot)["use_sim_time"]
