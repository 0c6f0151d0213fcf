"""The client's own thread lives on, whatever comes and goes."""

from __future__ import annotations

import threading

import pytest
from std_msgs.msg import String

from .harness import Robot, wait_until

ROUNDS = 100


def test_subscriptions_that_go_between_callbacks_do_not_end_the_clients_thread(
    robot: Robot,
) -> None:
    node = robot.client.node
    for _ in range(ROUNDS):
        gone = node.create_subscription(String, "said", lambda _: None, 10)
        robot.client.between_callbacks(lambda s=gone: node.destroy_subscription(s))  # type: ignore[misc]
    heard = robot.collect(String, "instruction")
    wait_until(lambda: robot.instructions.get_subscription_count() > 0, "the last one")
    robot.say("take the cup")
    wait_until(lambda: [m.data for m in heard.messages] == ["take the cup"], "what was said")


def test_it_is_the_clients_thread_that_runs_what_is_to_happen_between_callbacks(
    robot: Robot,
) -> None:
    names: list[str] = []
    robot.client.between_callbacks(lambda: names.append(threading.current_thread().name))
    assert names == ["client"]


def test_an_error_between_callbacks_reaches_the_caller_and_not_the_thread(robot: Robot) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        robot.client.between_callbacks(fail)
    robot.client.between_callbacks(lambda: None)
