"""A running node and clients that send it rubbish, thousands of times."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import KeyValue
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vla_retrieval_msgs.msg import Status

from .harness import START_SEC, NodeProcess, Robot, image_message, picture
from .hostile import hostile_requests

_AT_ONCE = 16  # below max_waiting_requests, so that each is read
_FEW = 2_000
_MANY = int(os.environ.get("VLA_FUZZED_REQUESTS", "100000"))
_WITHIN_SEC = 120.0


class Siege:
    """Sends requests, a few at once, and keeps what was said of each."""

    def __init__(self, robot: Robot) -> None:
        """Start without an answer."""
        self._robot = robot
        self._free = threading.Semaphore(_AT_ONCE)
        self.codes: Counter[int] = Counter()
        self.silent: list[tuple[str, Any]] = []
        self.remembered: set[int] = set()
        self.forgotten: set[int] = set()

    def run(self, seed: int, count: int) -> None:
        """Send so many requests, and return when each has its answer."""
        for service, fields in hostile_requests(seed, count):
            assert self._free.acquire(timeout=_WITHIN_SEC), f"no answer within {_WITHIN_SEC:g} s"
            future = self._robot.client.call_async(service, **fields)
            future.add_done_callback(
                lambda future, service=service, fields=fields: self._take(
                    service, fields, future.result()
                )
            )
        for _ in range(_AT_ONCE):
            assert self._free.acquire(timeout=_WITHIN_SEC), f"no answer within {_WITHIN_SEC:g} s"

    def _take(self, service: str, fields: dict[str, Any], response: Any) -> None:
        self.codes[response.status.code] += 1
        if response.success == bool(response.message):
            self.silent.append((service, response))
        if response.success and service == "remember":
            self.remembered.add(response.entry_id)
        if response.success and service == "forget":
            self.forgotten.update(fields["entry_ids"])
        self._free.release()


def besiege(start: Callable[..., NodeProcess], robot: Robot, count: int) -> Siege:
    """Send rubbish to a node that holds one good entry, and check what is always true."""
    node = start()
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    siege = Siege(robot)
    siege.run(seed=count, count=count)
    assert node.is_alive(), node.log
    assert "Traceback" not in node.log
    assert siege.silent == [], "each refusal has a reason, and nothing else has"
    for fault in (Status.INTERNAL, Status.STALLED, Status.STORAGE):
        assert siege.codes[fault] == 0, node.log
    assert robot.call("get_stats").memory_size == len(siege.remembered - siege.forgotten)
    good = robot.call("remember", image=image_message(picture(99), 5), instruction="good")
    found = robot.call("retrieve", image=image_message(picture(99), 6), k=1)
    assert found.result.matches[0].entry_id == good.entry_id
    return siege


def test_each_of_two_thousand_hostile_requests_is_answered(
    start: Callable[..., NodeProcess], robot: Robot
) -> None:
    """Some are good by chance, most are refused with a reason, and nothing is lost."""
    siege = besiege(start, robot, _FEW)
    assert siege.codes.total() == _FEW
    assert siege.codes[Status.INVALID_REQUEST] > _FEW / 4
    assert siege.codes[Status.OK] > _FEW / 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_of_a_hundred_thousand_hostile_requests_is_answered(
    start: Callable[..., NodeProcess], robot: Robot
) -> None:
    """The same for longer; VLA_FUZZED_REQUESTS says how many."""
    siege = besiege(start, robot, _MANY)
    assert siege.codes.total() == _MANY


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_frames_of_rubbish_are_counted_and_the_next_good_one_is_seen(
    start: Callable[..., NodeProcess], domain: int, transport: str
) -> None:
    """A camera that sends broken frames and impossible instructions takes nothing down."""
    node = start(image_transport=transport)
    robot = Robot(compressed=transport == "compressed")
    try:
        assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
        robot.wait_until_heard()
        rubbish = np.random.default_rng(0)
        for _ in range(200):
            data = rubbish.bytes(int(rubbish.integers(0, 2000)))
            kind = CompressedImage if transport == "compressed" else Image
            fields = {"format": "jpeg"} if transport == "compressed" else {
                "height": int(rubbish.integers(0, 2**32)), "width": 64, "step": 192,
                "encoding": "rgb8",
            }  # fmt: skip
            robot.camera.publish(kind(data=data, **fields))
            robot.instructions.publish(String(data="x" * int(rubbish.integers(0, 20_000))))
        while not robot.call("get_stats").frames_rejected:
            robot.camera.publish(kind(data=b"rubbish", **fields))
        assert robot.call("get_stats").success
        assert node.is_alive(), node.log
        assert "Traceback" not in node.log
    finally:
        robot.close()


def test_a_request_beyond_the_nodes_limit_is_refused_and_nothing_is_stored(
    start: Callable[..., NodeProcess], robot: Robot
) -> None:
    """What is stored is read again with each match."""
    node = start(max_request_kb=5)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    metadata = [KeyValue(key="note", value="x" * 10_000)]
    image = image_message(picture(1), 1)
    refused = robot.call("remember", image=image, instruction="cup", metadata=metadata)
    assert refused.status.code == Status.INVALID_REQUEST
    assert refused.message.startswith("metadata: ")
    assert "max_request_kb" in refused.message
    assert robot.call("get_stats").memory_size == 0
