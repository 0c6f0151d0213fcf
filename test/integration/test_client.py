"""The client's own thread lives on, whatever comes and goes, and nobody waits in vain for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from rclpy.task import Future
from std_msgs.msg import String

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros.client import ClientClosedError, RetrievalClient
from vla_retrieval_msgs.srv import GetStats

from .harness import WAIT_SEC, Robot, wait_until

ROUNDS = 100


class Silent:
    """A service that takes requests and never answers."""

    def __init__(self, robot: Robot) -> None:
        self.asked = threading.Semaphore(0)
        robot.client.node.create_service(GetStats, "retrieval/get_stats", self._take)

    async def _take(self, request: Any, response: Any) -> Any:
        self.asked.release()
        await Future()


@pytest.fixture
def client(domain: int) -> Iterator[RetrievalClient]:
    with RetrievalClient() as client:
        yield client


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


def test_a_call_with_a_wrong_name_or_value_is_an_error_and_nothing_is_sent(
    client: RetrievalClient,
) -> None:
    """Without a node, too: nobody waits for a service that does not exist."""
    for service, fields, said in (
        ("recall", {}, "service: expected one of retrieve, .*got 'recall'"),
        ("retrieve", {"K": 1}, "field: expected one of image, .*got 'K'"),
        ("remember", {"tags": "kitchen"}, "tags: expected sequence<string>"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            client.call(service, **fields)
        with pytest.raises(InvalidInputError, match=said):
            client.call_async(service, **fields)


def test_who_calls_without_a_node_is_told_the_service_the_time_and_the_domain(
    client: RetrievalClient, domain: int
) -> None:
    said = f"no service /retrieval/retrieve within 0.3 s.* ROS domain {domain}"
    with pytest.raises(TimeoutError, match=said):
        client.call("retrieve", within_sec=0.3, instruction="cup")


def test_an_error_between_callbacks_reaches_the_caller_and_not_the_thread(robot: Robot) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        robot.client.between_callbacks(fail)
    robot.client.between_callbacks(lambda: None)


def test_a_callback_that_fails_does_not_end_the_clients_thread(
    robot: Robot, client: RetrievalClient
) -> None:
    failed = threading.Event()

    def fail(message: String) -> None:
        failed.set()
        raise ValueError(message.data)

    client.node.create_subscription(String, "instruction", fail, 10)
    wait_until(lambda: robot.instructions.get_subscription_count() > 0, "the subscription")
    robot.say("take the cup")
    assert failed.wait(WAIT_SEC)
    client.between_callbacks(lambda: None)


def test_who_waits_for_an_answer_is_told_that_the_client_is_closed(
    robot: Robot, client: RetrievalClient
) -> None:
    """At once, and not when the time is over; and not that the node is busy."""
    silent = Silent(robot)
    with ThreadPoolExecutor(1) as other:
        call = other.submit(client.call, "get_stats", 2 * WAIT_SEC)
        assert silent.asked.acquire(timeout=WAIT_SEC)
        client.close()
        with pytest.raises(ClientClosedError):
            call.result(WAIT_SEC)


def test_a_client_that_is_closed_says_so(client: RetrievalClient) -> None:
    client.close()
    with pytest.raises(ClientClosedError):
        client.call("get_stats")
    with pytest.raises(ClientClosedError):
        client.between_callbacks(lambda: None)


def test_a_request_that_got_no_answer_in_time_is_not_kept(
    robot: Robot, client: RetrievalClient
) -> None:
    """A planner that goes on asking a node that hangs would grow."""
    Silent(robot)
    client.call_async("get_stats", WAIT_SEC).cancel()  # the service is discovered by then
    futures: list[Any] = []
    send = client._send

    def note(*arguments: Any) -> Any:
        futures.append(send(*arguments))
        return futures[-1]

    client._send = note  # type: ignore[method-assign]
    with pytest.raises(TimeoutError, match=r"no answer from /retrieval/get_stats within 0\.5 s"):
        client.call("get_stats", 0.5)
    assert [future.cancelled() for future in futures] == [True]
