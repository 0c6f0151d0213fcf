"""The disk hangs, becomes read-only, or may not be written any more, while the node is active."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from vla_retrieval.memory import Memory
from vla_retrieval.ros import session as node_session
from vla_retrieval.ros.disk import Errands
from vla_retrieval_msgs.msg import Status

from ..crash.disks import check_and_mount_again, ext4, frozen, immutable, remount_after_an_error
from .harness import (
    START_SEC,
    WAIT_SEC,
    Collector,
    NodeProcess,
    Robot,
    image_message,
    picture,
    wait_until,
)
from .local_node import LocalNode
from .parameters import Manager

Start = Callable[..., NodeProcess]
_MB = 1 << 20
_PERIOD_SEC = 0.2


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Path]:
    """Lend a file system with a journal, large enough that nobody warns of the room on it."""
    with ext4(tmp_path / "disk", 512 * _MB) as path:
        yield path


def send(robot: Robot, seed: int) -> Any:
    """Ask for a pair to be remembered; return the future."""
    return robot.client.call_async(
        "remember", image=image_message(picture(seed), seed), instruction=f"task {seed}"
    )


def remember(robot: Robot, seed: int) -> Any:
    """Have a pair remembered; return the answer."""
    future = send(robot, seed)
    wait_until(future.done, "an answer")
    return future.result()


def finds(robot: Robot, seed: int, entry_id: int) -> bool:
    """Return whether a scene is found where it was remembered."""
    found = robot.call("retrieve", image=image_message(picture(seed), seed), k=1)
    return bool(found.success and found.result.matches[0].entry_id == entry_id)


def bound_by_permissions() -> tuple[str, ...]:
    """Return a command that runs another one for which permissions count, also as root."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv(1), and permissions do not bind root")
    rights = "-dac_override,-dac_read_search"
    return ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}")


def of_memory(report: DiagnosticArray) -> DiagnosticStatus:
    """Return what the diagnostics say about the memory."""
    (status,) = (s for s in report.status if s.name.endswith(": memory"))
    return status


def stored(memory_dir: Path) -> set[int]:
    """Return the ids in a memory that no node has open."""
    with Memory.open(memory_dir, None, read_only=True) as memory:
        return set(memory.entry_ids())


def goes_on(
    node: NodeProcess, robot: Robot, reports: Collector, memory_dir: Path, kept: int
) -> None:
    """Remember one more pair, find nothing wrong, and end with both of them stored."""
    again = remember(robot, 3)
    assert again.success, again.message
    reports.messages.clear()
    reports.wait_for(lambda m: of_memory(m).level == DiagnosticStatus.OK)
    assert node.stop() == 0
    assert stored(memory_dir) == {kept, again.entry_id}


@pytest.mark.timeout(200)
def test_a_disk_that_hangs_holds_up_neither_queries_nor_diagnostics(
    journaled: Path, start: Start, robot: Robot
) -> None:
    """Changes are refused with the directory until it comes back, and nothing is lost."""
    memory_dir = journaled / "memory"
    node = start(memory_dir=memory_dir, diagnostics_period_sec=_PERIOD_SEC, worker_stall_sec=2.0)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    kept = [remember(robot, seed) for seed in range(1, 4)]
    assert all(answer.success for answer in kept)
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    manager = Manager(robot)
    with frozen(journaled):
        stuck = remember(robot, 4)
        assert stuck.status.code == Status.STALLED
        assert "whether that was done is not known" in stuck.message
        wait_until(lambda: remember(robot, 5).status.code == Status.STORAGE, "a refusal")
        refused = remember(robot, 6)
        assert str(memory_dir) in refused.message
        assert "waiting for the disk" in refused.message
        assert finds(robot, 1, kept[0].entry_id)
        assert manager.set(k=3)[0].successful
        reports.messages.clear()
        report = reports.wait_for(lambda m: of_memory(m).level == DiagnosticStatus.ERROR)
        assert f"the disk of {memory_dir} has not answered" in of_memory(report).message
        seen = len(reports.messages)
        wait_until(lambda: len(reports.messages) >= seen + 5, "diagnostics that go on")
    wait_until(lambda: remember(robot, 7).success, "pairs that are remembered again")
    reports.messages.clear()
    reports.wait_for(lambda m: of_memory(m).level == DiagnosticStatus.OK)
    assert all(finds(robot, seed, kept[seed - 1].entry_id) for seed in (1, 2, 3))
    assert "Traceback" not in node.log
    assert node.stop() == 0
    assert stored(memory_dir) >= {answer.entry_id for answer in kept}


def test_a_lost_permission_refuses_pairs_until_it_is_given_back(
    journaled: Path, start: Start, robot: Robot
) -> None:
    """Queries are answered, the diagnostics name the directory, and no restart is needed."""
    memory_dir = journaled / "memory"
    node = start(memory_dir=memory_dir, diagnostics_period_sec=_PERIOD_SEC)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    kept = remember(robot, 1)
    assert kept.success, kept.message
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    with immutable(memory_dir):
        refused = remember(robot, 2)
        assert refused.status.code == Status.STORAGE
        assert str(memory_dir) in refused.message
        assert finds(robot, 1, kept.entry_id)
        report = reports.wait_for(lambda m: "cannot be written" in of_memory(m).message)
        assert of_memory(report).level == DiagnosticStatus.WARN
        assert str(memory_dir) in of_memory(report).message
    goes_on(node, robot, reports, memory_dir, kept.entry_id)


def test_a_directory_that_may_not_be_entered_any_more_is_no_lost_memory(
    start: Start, robot: Robot, tmp_path: Path
) -> None:
    """The node stays active, refuses pairs with the next step, and goes on with the permission."""
    memory_dir = tmp_path / "memory"
    node = start(prefix=bound_by_permissions(), diagnostics_period_sec=_PERIOD_SEC)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    kept = remember(robot, 1)
    assert kept.success, kept.message
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    mode = memory_dir.stat().st_mode
    memory_dir.chmod(0)
    try:
        refused = remember(robot, 2)
        assert refused.status.code == Status.STORAGE
        assert f"Let this user read and write {memory_dir} again" in refused.message
        assert finds(robot, 1, kept.entry_id)
        report = reports.wait_for(lambda m: of_memory(m).level == DiagnosticStatus.ERROR)
        assert str(memory_dir) in of_memory(report).message
    finally:
        memory_dir.chmod(mode)
    goes_on(node, robot, reports, memory_dir, kept.entry_id)


@pytest.mark.timeout(200)
def test_a_file_system_that_became_read_only_is_named_and_can_be_repaired_under_the_node(
    journaled: Path, start: Start, robot: Robot
) -> None:
    """As ext4 does after an error: the node is cleaned up, the disk repaired, and it goes on."""
    memory_dir = journaled / "memory"
    node = start(memory_dir=memory_dir, diagnostics_period_sec=_PERIOD_SEC)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    kept = [remember(robot, seed) for seed in range(1, 6)]
    assert all(answer.success for answer in kept)
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    remount_after_an_error(journaled)
    refused = remember(robot, 6)
    assert refused.status.code == Status.STORAGE
    assert str(memory_dir) in refused.message
    assert finds(robot, 1, kept[0].entry_id)
    reports.wait_for(lambda m: str(memory_dir) in of_memory(m).message)
    manager = Manager(robot)
    assert manager.try_to("deactivate")
    assert manager.try_to("cleanup"), node.log
    check_and_mount_again(journaled)
    assert manager.try_to("configure"), node.log
    assert manager.try_to("activate")
    assert all(finds(robot, n, answer.entry_id) for n, answer in enumerate(kept, 1))
    assert remember(robot, 7).success
    assert node.stop() == 0
    assert stored(memory_dir) >= {answer.entry_id for answer in kept}


def test_a_disk_that_hangs_when_the_node_is_configured_is_named_and_can_be_had_later(
    domain: int, journaled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor is given back, the node stays unconfigured, and nothing has to be restarted."""
    monkeypatch.setattr("vla_retrieval.ros.node.FIRST_PATIENCE_SEC", 0.5)
    node = LocalNode(journaled / "memory", active=False)
    try:
        with frozen(journaled):
            assert node.node.trigger_configure() == TransitionCallbackReturn.FAILURE
            assert f"cannot open {journaled / 'memory'}: the disk did not answer" in node.node.fault
        wait_until(
            lambda: node.node.trigger_configure() == TransitionCallbackReturn.SUCCESS,
            "a disk that answers",
        )
        assert node.node.fault == ""
    finally:
        node.close()


def test_a_head_on_a_disk_that_hangs_is_refused_and_the_node_goes_on(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robot: Robot
) -> None:
    """The old head stays; who set it is told, and others are answered after that."""
    released = threading.Event()

    def hang(*_: Any) -> None:
        assert released.wait(WAIT_SEC)

    monkeypatch.setattr(node_session, "load_head", hang)
    monkeypatch.setattr("vla_retrieval.ros.node.Errands", lambda: Errands(0.2))
    node = LocalNode(tmp_path / "memory", diagnostics_period_sec=_PERIOD_SEC)
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        change = [Parameter("head", value="kitchen.safetensors"), Parameter("k", value=9)]
        refused = node.node.set_parameters_atomically(change)
        assert not refused.successful
        assert "the disk did not answer" in refused.reason
        assert node.node.get_parameter("k").value != 9
        assert robot.call("get_stats").success
    finally:
        released.set()
        node.close()
