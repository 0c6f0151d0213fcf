"""Starting, stopping, being killed, and being set up wrongly."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

from vla_retrieval_msgs.msg import Status

from .harness import (
    SHARED_MEMORY,
    START_SEC,
    NodeProcess,
    Robot,
    ask,
    image_message,
    picture,
    wait_until,
)

Start = Callable[..., NodeProcess]
_FRAME_PERIOD_SEC = 0.03


def begin(start: Start, robot: Robot, **parameters: Any) -> NodeProcess:
    """Start a node, and return it when it is active."""
    node = start(**parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def remember(robot: Robot, seed: int) -> int:
    """Remember a made-up pair and return its entry id."""
    image = image_message(picture(seed), seed)
    response = robot.call("remember", image=image, instruction=f"task {seed}")
    assert response.success, response.message
    return int(response.entry_id)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly(start: Start, robot: Robot, number: signal.Signals) -> None:
    """Exit code 0, no stack trace, and the memory can be opened again at once."""
    node = begin(start, robot)
    remember(robot, 1)
    assert node.stop(number) == 0
    assert "Traceback" not in node.log
    begin(start, robot)
    assert robot.call("get_stats").memory_size == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_was_ended_leaves_no_shared_memory_behind(
    start: Start, robot: Robot, number: signal.Signals
) -> None:
    """Or each run would take 17 MB of the robot's RAM for good."""
    before = {path.name for path in SHARED_MEMORY.iterdir()}
    node = begin(start, robot)
    own = {name for name in node.segments() if name not in before}
    if not own:
        pytest.skip("this middleware has no segments in /dev/shm, or they are named otherwise")
    robot.wait_until_heard()
    robot.show(picture(1), 1)
    assert node.stop(number) == 0
    assert not {name for name in own if (SHARED_MEMORY / name).exists()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_frames_and_requests_ends_the_node_cleanly(
    start: Start, robot: Robot, number: signal.Signals
) -> None:
    """Whatever is being worked on, there is no stack trace and no hanging thread."""
    node = begin(start, robot, remember_mode="interval", remember_interval_sec=0.0)
    robot.wait_until_heard()
    robot.say("work")
    stop = threading.Event()

    def film() -> None:
        for stamp_ns in itertools.count(1):
            if stop.wait(_FRAME_PERIOD_SEC):
                return
            robot.show(picture(stamp_ns % 7, 480, 640), stamp_ns)
            with contextlib.suppress(TimeoutError):  # the node may be gone already
                robot.client.call_async("retrieve", 0.01, instruction=f"{stamp_ns}", k=5)

    thread = threading.Thread(target=film)
    thread.start()
    try:
        wait_until(lambda: robot.call("get_stats").entries_remembered >= 5, "five entries")
        assert node.stop(number) == 0, node.log
    finally:
        stop.set()
        thread.join()
    assert "Traceback" not in node.log
    assert "a job failed" not in node.log


def test_what_was_acknowledged_survives_kill_9(start: Start, robot: Robot) -> None:
    """Entries, their ids and their embeddings are there after the power button."""
    node = begin(start, robot)
    ids = [remember(robot, seed) for seed in range(1, 6)]
    assert robot.call("forget", entry_ids=[ids[-1]]).success
    assert node.stop(signal.SIGKILL) == -signal.SIGKILL
    begin(start, robot)
    response = robot.call("retrieve", image=image_message(picture(2), 1), k=10)
    assert response.result.matches[0].entry_id == ids[1]
    assert sorted(m.entry_id for m in response.result.matches) == ids[:-1]
    assert remember(robot, 9) == ids[-1] + 1, "the id of a forgotten entry is not given out again"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"k": 0}, "k"),
        ({"scene_weight": 1.5}, "scene_weight"),
        ({"recall_target": 0.4}, "recall_target"),
        ({"index": "hnsw"}, "expected one of auto, exact, pq, pq_sq8, hash"),
        ({"query_target": "everything"}, "expected one of scenes, instructions, pair"),
        ({"model": "ViT-B-23"}, "ViT-B-32"),
        ({"model": "ViT-B-32", "checkpoint": "/nowhere/weights.safetensors"}, "/nowhere/weights"),
        ({"device": "tpu"}, "device: expected auto, cpu, cuda"),
    ],
)
def test_a_bad_setting_ends_the_start_with_the_reason(
    start: Start, parameters: dict[str, Any], reason: str
) -> None:
    """Exit code 1 and one clear line, not a stack trace."""
    node = start(**parameters)
    assert node.process.wait(START_SEC) == 1
    assert reason in node.log
    assert "Traceback" not in node.log


def test_a_parameter_with_a_letter_too_few_is_named_with_the_one_that_was_meant(
    start: Start, robot: Robot
) -> None:
    """ROS 2 takes it without a word, and the memory would have no bound."""
    node = begin(start, robot, max_entires=1000, use_sim_time=False)
    assert "no parameter max_entires" in node.log
    assert "Did you mean max_entries?" in node.log
    assert node.log.count("there is no parameter") == 1


def test_a_foreign_directory_is_left_alone(start: Start, tmp_path: Path) -> None:
    """The node does not write into a folder that is not a memory."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "photo.txt").write_text("do not touch")
    node = start(memory_dir=folder)
    assert node.process.wait(START_SEC) == 1
    assert str(folder) in node.log
    assert "Traceback" not in node.log
    assert [path.name for path in folder.iterdir()] == ["photo.txt"]


def test_a_memory_of_another_model_is_refused_with_both_sides_named(
    start: Start, robot: Robot, tmp_path: Path
) -> None:
    """Wrong matches at high scores are worse than none."""
    node = begin(start, robot)
    remember(robot, 1)
    assert node.stop() == 0
    checkpoint = make_tiny_clip(tmp_path)
    other = start(model=f"local-dir:{checkpoint}", device="cpu")
    assert other.process.wait(START_SEC) == 1
    assert "double" in other.log
    assert "local-dir" in other.log
    assert "Traceback" not in other.log


def make_tiny_clip(folder: Path) -> Path:
    """Write a small random CLIP model, as a folder that open_clip can load."""
    open_clip = pytest.importorskip("open_clip")
    safetensors = pytest.importorskip("safetensors.torch")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16,
                       "head_width": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    target = folder / "tiny"
    target.mkdir()
    model = open_clip.CLIP(**config)
    safetensors.save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        target / "open_clip_model.safetensors",
    )
    (target / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    return target


def test_two_nodes_never_write_one_memory(start: Start, robot: Robot) -> None:
    """The second one names the holder and leaves."""
    first = begin(start, robot)
    second = start()
    assert second.process.wait(START_SEC) == 1
    assert str(first.process.pid) in second.log
    assert first.is_alive()


def test_that_a_memory_is_in_use_is_said_before_a_model_is_loaded(
    start: Start, robot: Robot
) -> None:
    """That takes ten seconds, or a download."""
    first = begin(start, robot)
    second = start(model="ViT-B-23")  # there is none
    assert second.process.wait(START_SEC) == 1
    assert str(first.process.pid) in second.log
    assert "ViT-B-32" not in second.log  # which it would be told it is like


def test_without_autostart_the_node_waits_to_be_told(start: Start, robot: Robot) -> None:
    """unconfigured -> inactive -> active -> inactive -> unconfigured, as a manager asks."""
    node = start(autostart=False)
    graph = robot.client.node
    change = graph.create_client(ChangeState, "retrieval/change_state")
    state = graph.create_client(GetState, "retrieval/get_state")
    assert change.wait_for_service(START_SEC), node.log
    assert state.wait_for_service(START_SEC), node.log

    def now() -> str:
        return str(ask(state, GetState.Request()).current_state.label)

    def tell(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        future = change.call_async(request)
        wait_until(future.done, "change_state")
        assert future.result().success

    assert now() == "unconfigured"
    refused = robot.call("retrieve", instruction="x")
    assert refused.status.code == Status.NOT_ACTIVE
    assert "configure and activate" in refused.message
    tell(Transition.TRANSITION_CONFIGURE)
    assert now() == "inactive"
    assert robot.call("get_stats").status.code == Status.NOT_ACTIVE
    tell(Transition.TRANSITION_ACTIVATE)
    assert now() == "active"
    entry_id = remember(robot, 1)
    tell(Transition.TRANSITION_DEACTIVATE)
    assert robot.call("retrieve", instruction="x").status.code == Status.NOT_ACTIVE
    tell(Transition.TRANSITION_CLEANUP)
    assert now() == "unconfigured"
    tell(Transition.TRANSITION_CONFIGURE)
    tell(Transition.TRANSITION_ACTIVATE)
    assert robot.call("get_entry", entry_id=entry_id).success


def test_a_deadline_holds_while_simulated_time_stands_still(start: Start, robot: Robot) -> None:
    """The caller's time runs on: a request that would wait is refused when it is over."""
    begin(start, robot, use_sim_time=True)
    assert robot.call("retrieve", instruction="x", timeout_sec=30.0).success
    late = robot.call("retrieve", instruction="x", timeout_sec=1e-9)
    assert late.status.code == Status.DEADLINE_EXCEEDED
