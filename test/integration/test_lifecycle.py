"""What goes wrong in a state, what it is called, and the way back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.errors import MemoryLockedError, StorageError
from vla_retrieval.memory import Memory
from vla_retrieval_msgs.msg import MatchArray, Status

from .harness import START_SEC, NodeProcess, Robot, image_message, picture, wait_until
from .local_node import LocalNode
from .parameters import Manager

_MB = 1 << 20
_AHEAD_NS = 2_000_000_000 * 1_000_000_000  # in the year 2033
Start = Callable[..., NodeProcess]


def begin(start: Start, robot: Robot, **parameters: Any) -> NodeProcess:
    node = start(diagnostics_period_sec=0.2, **parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def remember(robot: Robot, seed: int) -> Any:
    image = image_message(picture(seed), seed)
    return robot.call("remember", image=image, instruction=f"task {seed}")


def test_a_model_that_is_not_there_leaves_the_node_unconfigured_until_another_is_set(
    start: Start, robot: Robot
) -> None:
    """With the reason in the diagnostics; nobody has to start the node anew."""
    node = start(autostart=False, model="ViT-B-23", diagnostics_period_sec=0.2)
    manager = Manager(robot)
    assert not manager.try_to("configure")
    assert manager.state() == "unconfigured"
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    (report,) = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.ERROR).status
    assert "cannot configure" in report.message
    assert "ViT-B-32" in report.message, "what it may have meant"
    assert manager.set(model="double")[0].successful
    assert manager.try_to("configure")
    assert manager.try_to("activate")
    assert remember(robot, 1).success
    assert "Traceback" not in node.log


def test_a_topic_that_cannot_be_subscribed_to_leaves_the_node_unconfigured_with_the_reason(
    domain: int, tmp_path: Path, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the log had it; then the node can be configured and activated again."""
    node = LocalNode(tmp_path / "memory", active=False, diagnostics_period_sec=0.2)
    try:
        manager = Manager(robot)
        assert manager.try_to("configure")
        with monkeypatch.context() as patch:
            patch.setattr(
                "vla_retrieval.ros.node.Camera", MagicMock(side_effect=RuntimeError("no topic"))
            )
            assert not manager.try_to("activate")
        assert manager.state() == "unconfigured"
        reports = robot.collect(DiagnosticArray, "/diagnostics")
        (report,) = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.ERROR).status
        for words in ("cannot activate", "no topic", "remappings"):
            assert words in report.message
        assert manager.try_to("configure")
        assert manager.try_to("activate")
    finally:
        node.close()


def test_a_memory_of_another_encoder_is_left_alone_and_another_directory_can_be_set(
    start: Start, robot: Robot, tmp_path: Path
) -> None:
    """The directory comes over the graph, so it lies where those may."""
    foreign = tmp_path / "foreign"
    with Memory.open(foreign, DoubleEncoder(dim=32).fingerprint):
        pass
    node = start(autostart=False, memory_dir=foreign, remote_paths_dir=tmp_path)
    manager = Manager(robot)
    assert not manager.try_to("configure")
    assert manager.state() == "unconfigured"
    assert "cannot configure" in node.log
    (refused,) = manager.set(memory_dir=str(tmp_path.parent / "anywhere"))
    assert not refused.successful
    assert str(tmp_path) in refused.reason
    assert manager.set(memory_dir="own")[0].successful
    assert manager.try_to("configure")
    assert manager.try_to("activate")
    assert robot.call("get_stats").memory_dir == str(tmp_path / "own")


def test_a_memory_that_is_removed_ends_in_the_error_state_and_can_be_had_again(
    start: Start, robot: Robot, tmp_path: Path
) -> None:
    """Nothing is acknowledged that would be lost, and the reason is in the diagnostics."""
    directory, elsewhere = tmp_path / "memory", tmp_path / "elsewhere"
    node = begin(start, robot)
    kept = remember(robot, 1)
    assert kept.success, kept.message
    directory.rename(elsewhere)
    lost = remember(robot, 2)
    assert not lost.success
    assert lost.status.code in (Status.STORAGE, Status.NOT_ACTIVE)
    manager = Manager(robot)
    wait_until(lambda: manager.state() == "unconfigured", "the error state, and the way back")
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    report = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.ERROR).status[0]
    for words in ("the memory is lost", str(directory), "configure and activate"):
        assert words in report.message
    refused = robot.call("retrieve", instruction="x")
    assert refused.status.code == Status.NOT_ACTIVE
    elsewhere.rename(directory)
    assert manager.try_to("configure"), node.log
    assert manager.try_to("activate")
    assert robot.call("get_entry", entry_id=kept.entry_id).success
    assert "Traceback" not in node.log


def test_cleaning_up_gives_the_directory_to_another_process(
    start: Start, robot: Robot, tmp_path: Path
) -> None:
    """Inactive it is held still, unconfigured it is not."""
    begin(start, robot)
    kept = remember(robot, 1)
    manager = Manager(robot)
    assert manager.try_to("deactivate")
    with pytest.raises(MemoryLockedError):
        Memory.open(tmp_path / "memory", None)
    assert manager.try_to("cleanup")
    with Memory.open(tmp_path / "memory", DoubleEncoder().fingerprint) as memory:
        assert memory.entry_ids() == [kept.entry_id]
        assert not manager.try_to("configure"), "it is held by this test now"
    assert manager.try_to("configure")
    assert manager.try_to("activate")
    assert robot.call("get_stats").memory_size == 1


def test_a_frame_of_an_earlier_activation_is_none_in_the_next(
    domain: int, tmp_path: Path, robot: Robot
) -> None:
    """Its stamp is no warning, nobody is answered from it, and its pixels are let go of."""
    local = LocalNode(tmp_path / "memory", diagnostics_period_sec=0.2)
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        robot.wait_until_heard()

        def came() -> bool:
            robot.show(picture(1), _AHEAD_NS)
            return local.node.newest_frame.get() is not None

        wait_until(came, "a frame", period_sec=0.1)
        manager = Manager(robot)
        assert manager.try_to("deactivate")
        assert local.node.newest_frame.get() is None
        assert manager.try_to("activate")
        reports = robot.collect(DiagnosticArray, "/diagnostics")
        answer = robot.call("retrieve", use_newest_frame=True)
        assert answer.status.code == Status.NO_FRAME
        assert "since this node was activated" in answer.message
        assert "ahead of" not in reports.wait_for().status[0].message
    finally:
        local.close()


def tensor_bytes() -> int:
    """Return what the tensors of this process hold, in bytes; shared ones count again."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_cleaning_up_lets_go_of_every_tensor_of_the_model(
    domain: int, tmp_path: Path, robot: Robot
) -> None:
    """What nobody refers to is what torch can give back of a GPU; here it is counted on the CPU."""
    before = tensor_bytes()
    local = LocalNode(tmp_path / "memory", model="vla-retrieval-demo", engine="torch")
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        matches = robot.collect(MatchArray, "retrieval/matches")
        robot.wait_until_heard()
        assert remember(robot, 1).success
        assert robot.call("retrieve", instruction="take the cup", k=1).success
        robot.show(picture(1), 1)
        matches.wait_for(lambda message: message.query.has_image)
        held = tensor_bytes() - before
        manager = Manager(robot)
        assert manager.try_to("deactivate")
        assert manager.try_to("cleanup")
        assert held > 10 * _MB
        assert tensor_bytes() - before < _MB
    finally:
        local.close()


def test_a_configure_that_fails_after_the_model_was_loaded_gives_back_what_it_took(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once nobody refers to the model any more: an error does, while it is on its way."""
    loaded: list[weakref.ref[DoubleEncoder]] = []
    left: list[bool] = []

    def load(_: object) -> DoubleEncoder:
        encoder = DoubleEncoder()
        loaded.append(weakref.ref(encoder))
        return encoder

    def give_back() -> None:
        gc.collect()
        left.append(loaded[0]() is not None)

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("no disk")

    monkeypatch.setattr("vla_retrieval.ros.session.load_encoder", load)
    monkeypatch.setattr("vla_retrieval.ros.session.Memory.open", refuse)
    monkeypatch.setattr("vla_retrieval.ros.node.free_device_memory", give_back)
    local = LocalNode(tmp_path / "memory", active=False)
    try:
        assert local.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert left == [False]
    finally:
        local.close()


def test_an_unconfigured_node_takes_no_path_from_outside(
    start: Start, robot: Robot, tmp_path: Path
) -> None:
    """Absolute, upwards or through a link: each is refused with both sides named."""
    memory_dir = tmp_path / "memory"
    memory_dir.mkdir()
    (memory_dir / ".link").symlink_to("/etc")
    start(autostart=False)
    manager = Manager(robot)
    for name in ("head", "memory_dir", "checkpoint", "engine_cache_dir", "model"):
        prefix = "local-dir:" if name == "model" else ""
        (before,) = manager.get(name)
        for path in ("/etc/passwd", "../../etc/passwd", ".link/passwd", "~/x"):
            (result,) = manager.set(**{name: prefix + path})
            assert not result.successful
            assert result.reason.startswith(f"{name}: expected a path relative to {memory_dir}")
            assert path in result.reason
            assert manager.get(name) == [before]
        assert manager.set(**{name: f"{prefix}below"})[0].successful
        assert manager.set(**{name: before})[0].successful, "as it was started"
