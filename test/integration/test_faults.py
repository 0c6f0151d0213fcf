"""The node is killed, stopped, starved of disk, and its neighbours come and go."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

from vla_retrieval.memory import Memory
from vla_retrieval_msgs.msg import MatchArray

from ..crash.disks import disk, no_space
from .harness import BEST_EFFORT, START_SEC, NodeProcess, Robot, image_message, picture, wait_until

Start = Callable[..., NodeProcess]
_FEW_KILLS = 3
_MANY_KILLS = int(os.environ.get("VLA_NODE_KILLS", "60"))
_AT_ONCE = 8
_MB = 1 << 20


class Writer:
    """Remembers pairs without pause, and keeps what was acknowledged and what was only sent."""

    def __init__(self) -> None:
        """Start with nothing sent."""
        self.acknowledged: dict[int, str] = {}
        self.sent = 0
        self._lock = threading.Lock()

    def write_until(self, robot: Robot, enough: Callable[[], bool]) -> None:
        """Send pairs, several at once, until that says so; answers may still be on their way."""
        free = threading.Semaphore(_AT_ONCE)
        while not enough():
            if not free.acquire(timeout=0.05):
                continue
            self.sent += 1
            text = f"task {self.sent}"
            future = robot.client.call_async(
                "remember", image=image_message(picture(self.sent), self.sent), instruction=text
            )
            future.add_done_callback(
                lambda future, text=text: (self._take(future.result(), text), free.release())
            )

    def _take(self, response: Any, text: str) -> None:
        if response is not None and response.success:
            with self._lock:
                self.acknowledged[response.entry_id] = text


def kill_amid_writes(start: Start, kills: int) -> None:
    """Kill a node that is being written to, again and again, and compare with what it said."""
    writer = Writer()
    random = np.random.default_rng(kills)
    for _ in range(kills):
        robot = Robot()
        try:
            node = start()
            assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
            _all_are_there(robot, writer)
            goal = len(writer.acknowledged) + int(random.integers(1, 60))
            killer = threading.Thread(
                target=lambda goal=goal, node=node: (
                    wait_until(lambda: len(writer.acknowledged) >= goal, "acknowledged entries"),
                    node.stop(signal.SIGKILL),
                )
            )
            killer.start()
            writer.write_until(robot, lambda killer=killer: not killer.is_alive())
            killer.join()
        finally:
            robot.close()
    robot = Robot()
    try:
        node = start()
        assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
        _all_are_there(robot, writer)
        stored = robot.call("get_stats").memory_size
        assert stored <= writer.sent
        print(  # noqa: T201  (figures to report)
            f"{kills} kills: {writer.sent} pairs sent, {len(writer.acknowledged)} acknowledged, "
            f"all of these found among {stored} stored"
        )
    finally:
        robot.close()


def _all_are_there(robot: Robot, writer: Writer) -> None:
    """Compare every acknowledged entry with what the node gives back."""
    for entry_id, text in sorted(writer.acknowledged.items()):
        answer = robot.call("get_entry", entry_id=entry_id)
        assert answer.success, f"entry {entry_id} was acknowledged and is lost: {answer.message}"
        assert answer.entry.instruction == text
    stats = robot.call("get_stats")
    assert stats.memory_size >= len(writer.acknowledged)


def test_no_acknowledged_entry_is_lost_when_the_node_is_killed_amid_writes(start: Start) -> None:
    """Three kills, at moments of their own."""
    kill_amid_writes(start, _FEW_KILLS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_acknowledged_entry_is_lost_in_many_kills(start: Start) -> None:
    """The same for longer; VLA_NODE_KILLS says how many."""
    kill_amid_writes(start, _MANY_KILLS)


def test_a_node_that_was_stopped_answers_when_it_goes_on(start: Start, robot: Robot) -> None:
    """Who asks meanwhile waits, or is refused at the own deadline, and is not forgotten."""
    node = start()
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    os.killpg(node.process.pid, signal.SIGSTOP)
    asked = [robot.client.call_async("get_stats") for _ in range(5)]
    late = robot.client.call_async("retrieve", instruction="cup", timeout_sec=0.2)
    os.killpg(node.process.pid, signal.SIGCONT)
    wait_until(lambda: all(f.done() for f in [*asked, late]), "answers")
    assert all(future.result().success for future in asked)
    assert robot.call("remember", image=image_message(picture(1), 1), instruction="cup").success
    assert node.is_alive(), node.log


def test_cameras_that_come_and_go_are_heard_again(start: Start, robot: Robot) -> None:
    """Each new publisher's frames are answered, also after one that left without a word."""
    node = start()
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    robot.call("remember", image=image_message(picture(1), 1), instruction="cup")
    matches = robot.collect(MatchArray, "retrieval/matches")
    for stamp_ns in range(1, 6):
        camera = robot.client.node.create_publisher(Image, "image", BEST_EFFORT)

        def seen(stamp_ns: int = stamp_ns) -> bool:
            return any(m.header.stamp.nanosec == stamp_ns for m in matches.messages)

        def show(camera: Any = camera, stamp_ns: int = stamp_ns) -> bool:
            camera.publish(image_message(picture(1), stamp_ns))
            return seen(stamp_ns)

        wait_until(show, f"an answer to camera {stamp_ns}", period_sec=0.05)
        robot.client.node.destroy_publisher(camera)
    assert node.is_alive(), node.log


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Lend a file system of 24 MB."""
    with disk(tmp_path / "disk", 24 * _MB) as path:
        yield path


def test_a_full_disk_refuses_new_entries_and_answers_about_the_old(
    start: Start, robot: Robot, small_disk: Path
) -> None:
    """Nothing that was acknowledged is lost, and with room again it goes on without a restart."""
    memory_dir = small_disk / "memory"
    node = start(memory_dir=memory_dir, diagnostics_period_sec=0.2)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    kept = robot.call("remember", image=image_message(picture(1), 1), instruction="kept")
    assert kept.success, kept.message
    with no_space(small_disk):
        answers = [
            robot.call("remember", image=image_message(picture(n), n), instruction=f"task {n}")
            for n in range(2, 40)
        ]
        refused = [answer for answer in answers if not answer.success]
        assert refused, "the disk was not full"
        assert all(str(memory_dir) in answer.message for answer in refused)
        found = robot.call("retrieve", image=image_message(picture(1), 9), k=1)
        assert found.result.matches[0].entry_id == kept.entry_id
        reports.wait_for(lambda m: any("nothing is remembered" in s.message for s in m.status))
    again = robot.call("remember", image=image_message(picture(50), 50), instruction="again")
    assert again.success, again.message
    reports.messages.clear()
    reports.wait_for(lambda m: not any("nothing is remembered" in s.message for s in m.status))
    acknowledged = {answer.entry_id for answer in [kept, *answers, again] if answer.success}
    assert node.stop() == 0, node.log
    with Memory.open(memory_dir, None, read_only=True) as memory:
        assert set(memory.entry_ids()) == acknowledged
