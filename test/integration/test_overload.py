"""More than the node can do: requests, frames and pairs."""

from __future__ import annotations

import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval_msgs.msg import Status

from .harness import START_SEC, NodeProcess, Robot, image_message, picture, wait_until

Start = Callable[..., NodeProcess]
_REQUESTS = 200
_MB = 1 << 20
_CALLS = 10


def begin(start: Start, robot: Robot, **parameters: object) -> NodeProcess:
    node = start(**parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def resident_bytes(node: NodeProcess) -> int:
    """Return how much RAM the node takes."""
    pages = int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1])
    return pages * 4096


def flood(robot: Robot, node: NodeProcess) -> tuple[Counter[int], int]:
    """Send pairs without waiting for answers; return how often each status came, and the RAM."""
    image = image_message(picture(0, 480, 640), 1)
    answers = [
        robot.client.call_async("remember", image=image, instruction=f"task {n}")
        for n in range(_REQUESTS)
    ]
    wait_until(lambda: all(answer.done() for answer in answers), "an answer to each")
    results = [answer.result() for answer in answers]
    refused = [result for result in results if not result.success]
    assert all("max_waiting_requests" in result.message for result in refused)
    return Counter(result.status.code for result in results), resident_bytes(node)


def test_floods_of_pairs_are_refused_with_the_reason_and_what_was_acknowledged_is_kept(
    start: Start, robot: Robot
) -> None:
    """Each request has an answer. The middleware keeps room for one flood, and not for more."""
    node = begin(start, robot, max_waiting_requests=4)
    codes, after_one = flood(robot, node)
    for _ in range(2):
        more, after_all = flood(robot, node)
        codes += more
    assert set(codes) == {Status.OK, Status.BUSY}
    assert robot.call("get_stats").memory_size == codes[Status.OK]
    grown = after_all - after_one
    # Those that came after the first flood had 352 MB of pictures.
    assert grown < 120 * _MB, f"{grown / _MB:.0f} MB more"


@contextmanager
def filming(robot: Robot, pixels: np.ndarray, period_sec: float) -> Iterator[None]:
    """Let the camera film in the block."""
    message = image_message(pixels, 1)
    stop = threading.Event()

    def film() -> None:
        while not stop.wait(period_sec):
            robot.camera.publish(message)

    thread = threading.Thread(target=film)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("height", "width", "period_sec"),
    [
        pytest.param(480, 640, 1 / 120, id="120 Hz"),
        pytest.param(2160, 3840, 1 / 10, id="4K", marks=pytest.mark.slow),
    ],
)
def test_a_camera_that_is_too_much_does_not_starve_the_services(
    start: Start, robot: Robot, height: int, width: int, period_sec: float
) -> None:
    """While a request waits, few frames are taken; those that nobody looked at are counted."""
    begin(start, robot, remember_mode="interval", remember_interval_sec=0.0)
    robot.wait_until_heard()
    robot.say("work")
    planner = Robot()
    try:
        with filming(robot, picture(1, height, width), period_sec):
            wait_until(lambda: planner.call("get_stats").entries_remembered > 0, "a first pair")
            taken = []
            for n in range(_CALLS):
                before = planner.call("get_stats").frames_received
                answer = planner.call("retrieve", instruction=f"task {n}")
                assert answer.success, answer.message
                taken.append(planner.call("get_stats").frames_received - before)
        # Two calls took their turns in that time. Starved, it would be hundreds.
        assert statistics.median(taken) <= 40, taken
    finally:
        planner.close()
