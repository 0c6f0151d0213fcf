"""Callbacks run, coroutines go on and failures come out, whichever executor rclpy has."""

from __future__ import annotations

import gc
import importlib.metadata
import io
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros import spinning
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.replies import Reply, send_when_settled
from vla_retrieval.ros.spinning import Spinner, new_spinner
from vla_retrieval_msgs.msg import MatchArray

from .harness import START_SEC, WAIT_SEC, NodeProcess, Robot, image_message, picture, wait_until

KINDS = ["single_threaded", "events"]


class Spun:
    """A node that a thread spins, and another one that asks it."""

    def __init__(self, kind: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("spun", context=self.context)
        self.spinner = new_spinner(kind, self.context)
        self.spinner.executor.add_node(self.node)
        self.asking = rclpy.create_node("asking", context=self.context)
        self._others = SingleThreadedExecutor(context=self.context)
        self._others.add_node(self.asking)
        self._clients: dict[str, Any] = {}
        self.ends: list[Exception | None] = []
        self.failed = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self.spinner.stopped:
            try:
                self.spinner.spin()
                self.ends.append(None)
            except ExternalShutdownException as error:
                self.ends.append(error)
                return
            except Exception as error:
                self.ends.append(error)
                self.failed.set()

    def ask(self, name: str) -> Future[Any]:
        return self.keep_client(name).call_async(Trigger.Request())

    def keep_client(self, name: str) -> Any:
        """Return the client of a service, which is made once."""
        if name not in self._clients:
            self._clients[name] = self.asking.create_client(Trigger, name)
            assert self._clients[name].wait_for_service(WAIT_SEC)
        return self._clients[name]

    def result(self, future: Future[Any]) -> Any:
        self._others.spin_until_future_complete(future, WAIT_SEC)
        assert future.done()
        return future.result()

    def join(self) -> None:
        self._thread.join(WAIT_SEC)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.spinner.stop()
        self.join()
        for executor in (self.spinner.executor, self._others):
            executor.shutdown()
        for node in (self.node, self.asking):
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture(params=KINDS)
def spun(request: pytest.FixtureRequest, domain: int) -> Iterator[Spun]:
    if request.param == "events":
        pytest.importorskip("rclpy.experimental", reason="needs rclpy's EventsExecutor")
    lent = Spun(request.param)
    yield lent
    lent.close()


@pytest.fixture
def offered(spun: Spun) -> Offered:
    return Offered(spun)


class Offered:
    """A service whose answers the test settles."""

    def __init__(self, spun: Spun) -> None:
        self.replies: queue.Queue[Reply] = queue.Queue()
        service = spun.node.create_service(Trigger, "later", self._take)
        send_when_settled(service, spun.spinner.executor.create_task)
        self._spun = spun

    def _take(self, request: Any, response: Any) -> Reply:
        reply = Reply()
        self.replies.put(reply)
        return reply

    def ask(self) -> tuple[Future[Any], Reply]:
        """Ask it; return what will be answered, and the reply."""
        future = self._spun.ask("later")
        return future, self.replies.get(timeout=WAIT_SEC)


def said(text: str) -> Any:
    return Trigger.Response(success=True, message=text)


def test_an_answer_that_another_thread_settles_is_sent(spun: Spun, offered: Offered) -> None:
    future, reply = offered.ask()
    assert reply.settle(said("now"))
    assert spun.result(future).message == "now"


def test_several_wait_at_once_and_each_is_answered_in_its_turn(
    spun: Spun, offered: Offered
) -> None:
    asked = [offered.ask() for _ in range(3)]
    for number in (1, 2, 0):
        future, reply = asked[number]
        reply.settle(said(f"{number}"))
        assert spun.result(future).message == f"{number}"


def test_an_answer_that_is_settled_amid_the_callback_is_sent(spun: Spun) -> None:
    def take(request: Any, response: Any) -> Reply:
        reply = Reply()
        reply.settle(said("at once"))
        return reply

    service = spun.node.create_service(Trigger, "soon", take)
    send_when_settled(service, spun.spinner.executor.create_task)
    assert spun.result(spun.ask("soon")).message == "at once"


def test_an_answer_that_waits_leaves_the_executor_alone(spun: Spun, offered: Offered) -> None:
    """A round of the executor for each look at it, again and again, would take a core."""
    rounds = counted(spun.spinner)
    future, reply = offered.ask()
    words = threading.Semaphore(0)
    spun.node.create_subscription(String, "words", lambda _: words.release(), 10)
    publisher = spun.asking.create_publisher(String, "words", 10)
    wait_until(lambda: publisher.get_subscription_count() > 0, "a subscriber")
    for _ in range(20):
        publisher.publish(String(data="word"))
        assert words.acquire(timeout=WAIT_SEC)
    assert len(rounds) <= 1
    reply.settle(said("now"))
    assert spun.result(future).message == "now"


def counted(spinner: Spinner) -> list[None]:
    """Return a list that grows with each round that the executor is asked for from now on."""
    rounds: list[None] = []
    executor = spinner.executor

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(executor, name)

        def spin_until_future_complete(self, *arguments: Any) -> None:
            rounds.append(None)
            executor.spin_until_future_complete(*arguments)

    spinner.executor = Counting()  # type: ignore[assignment]
    return rounds


@pytest.mark.parametrize("calls", [2000])
def test_calls_leave_nothing_behind(spun: Spun, offered: Offered, calls: int) -> None:
    """Not one small object of Python each, which is what a robot's month is made of."""

    def call() -> None:
        future, reply = offered.ask()
        reply.settle(said("now"))
        spun.result(future)

    for _ in range(200):
        call()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(calls):
        call()
    gc.collect()
    # rclpy itself keeps up to a quarter of one for each call, by either executor.
    assert sys.getallocatedblocks() - before < 0.75 * calls


def failing(words: list[str]) -> Callable[[String], None]:
    def hear(message: String) -> None:
        words.append(message.data)
        if message.data == "bad":
            raise ZeroDivisionError(message.data)

    return hear


def test_what_a_callback_raises_comes_out_and_it_can_be_spun_on(
    spun: Spun, offered: Offered
) -> None:
    words: list[str] = []
    future, reply = offered.ask()
    spun.node.create_subscription(String, "words", failing(words), 10)
    publisher = spun.asking.create_publisher(String, "words", 10)
    while not spun.failed.wait(0.05):
        publisher.publish(String(data="bad"))
    assert isinstance(spun.ends[0], ZeroDivisionError)
    reply.settle(said("still there"))
    assert spun.result(future).message == "still there"


def test_a_task_given_from_another_thread_runs(spun: Spun) -> None:
    ran = threading.Event()
    spun.spinner.executor.create_task(ran.set)
    assert ran.wait(WAIT_SEC)


def test_a_task_that_fails_comes_out_and_the_next_one_runs(spun: Spun) -> None:
    """With a single node, rclpy's EventsExecutor would end the process."""

    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    spun.spinner.executor.create_task(fail)
    assert spun.failed.wait(WAIT_SEC)
    assert isinstance(spun.ends[0], ZeroDivisionError)
    ran = threading.Event()
    spun.spinner.executor.create_task(ran.set)
    assert ran.wait(WAIT_SEC)


def test_it_returns_when_it_is_stopped(spun: Spun) -> None:
    spun.spinner.stop()
    spun.join()
    assert spun.ends == [None]


def test_it_ends_when_the_context_does(spun: Spun) -> None:
    rclpy.shutdown(context=spun.context)
    spun.join()
    (end,) = spun.ends
    assert end is None or isinstance(end, ExternalShutdownException)


@pytest.fixture
def context(domain: int) -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    yield context
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("version", ["3.3.16", "7.1.11", "9.1.1", "9.1.2", "9.2.0", "10.0.1", ""])
def test_auto_takes_events_where_they_were_tried_and_nowhere_else(
    context: Any, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if not version:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    events = MagicMock()
    monkeypatch.setattr(spinning, "_events_executor", lambda _: events)
    executor = new_spinner("auto", context).executor
    if version in ("9.1.2", "9.2.0"):
        assert executor is events
    else:
        assert isinstance(executor, SingleThreadedExecutor)
        executor.shutdown()


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
def test_without_a_standard_error_output_auto_does_without_events(
    context: Any, stderr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    executor = new_spinner("auto", context).executor
    assert isinstance(executor, SingleThreadedExecutor)
    executor.shutdown()


@pytest.mark.parametrize("kind", ["event", "", "multi_threaded"])
def test_another_kind_is_refused_with_all_that_there_are(context: Any, kind: str) -> None:
    with pytest.raises(InvalidInputError, match="expected one of auto, events, single_threaded"):
        new_spinner(kind, context)


def test_a_client_that_cannot_have_its_executor_leaves_no_context_behind(domain: int) -> None:
    with pytest.raises(InvalidInputError, match="executor"):
        RetrievalClient(executor="event")
    with RetrievalClient(executor="events") as client:
        assert client.node.context.ok()


def test_events_are_refused_where_rclpy_has_none(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rclpy.experimental", None)
    with pytest.raises(InvalidInputError, match="executor: expected auto or single_threaded"):
        new_spinner("events", context)


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_answers_questions_and_frames_by_either(
    start: Callable[..., NodeProcess], robot: Robot, kind: str
) -> None:
    node = start(executor=kind)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    image = image_message(picture(1), 1)
    assert robot.call("remember", image=image, instruction="cup").success
    assert robot.call("retrieve", instruction="cup", timeout_sec=WAIT_SEC).result.matches
    looks = robot.collect(MatchArray, "retrieval/matches")
    robot.wait_until_heard()
    robot.show(picture(1), 2)
    assert looks.wait_for(lambda answer: len(answer.matches) == 1).matches[0].instruction == "cup"
