"""Callbacks run, coroutines go on and failures come out, whichever executor rclpy has."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros import spinning
from vla_retrieval.ros.spinning import Spinner, new_spinner
from vla_retrieval_msgs.msg import MatchArray

from .harness import START_SEC, WAIT_SEC, NodeProcess, Robot, image_message, picture

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
        client = self.asking.create_client(Trigger, name)
        assert client.wait_for_service(WAIT_SEC)
        return client.call_async(Trigger.Request())

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
def spun(
    request: pytest.FixtureRequest, domain: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Spun]:
    if request.param == "events" and not spinning._awaits(spinning._version()):
        pytest.skip("this rclpy has no EventsExecutor that takes services which are coroutines")
    # Nothing below may hang on a round that ends by itself.
    monkeypatch.setattr(spinning, "_AT_ONCE_SEC", 100 * WAIT_SEC)
    lent = Spun(request.param)
    yield lent
    lent.close()


def answering_later(node: Node, name: str) -> tuple[Future[str], threading.Event]:
    """Offer a service whose answer somebody else sets; return that, and when it is awaited."""
    answer: Future[str] = Future()
    asked = threading.Event()

    async def serve(request: Any, response: Any) -> Any:
        asked.set()
        response.message = await answer
        return response

    node.create_service(Trigger, name, serve, callback_group=ReentrantCallbackGroup())
    return answer, asked


def test_an_answer_that_another_thread_sets_is_sent_when_it_wakes_the_executor(spun: Spun) -> None:
    answer, asked = answering_later(spun.node, "later")
    future = spun.ask("later")
    assert asked.wait(WAIT_SEC)
    answer.set_result("now")
    spun.spinner.wake()
    assert spun.result(future).message == "now"


def test_several_wait_at_once_and_each_is_answered_in_its_turn(spun: Spun) -> None:
    waiting = {name: answering_later(spun.node, name) for name in ("one", "two", "three")}
    futures = {name: spun.ask(name) for name in waiting}
    for _, asked in waiting.values():
        assert asked.wait(WAIT_SEC)
    for name in ("two", "three", "one"):
        waiting[name][0].set_result(name)
        spun.spinner.wake()
        assert spun.result(futures[name]).message == name


def test_an_answer_that_waits_takes_no_processor(spun: Spun) -> None:
    """A round of the executor for each look at it, again and again, would take a core."""
    answer, asked = answering_later(spun.node, "later")
    others = [threading.Event() for _ in range(20)]
    heard = iter(others)
    spun.node.create_subscription(String, "words", lambda _: next(heard).set(), 10)
    publisher = spun.asking.create_publisher(String, "words", 10)
    rounds = counted(spun.spinner)
    future = spun.ask("later")
    assert asked.wait(WAIT_SEC)
    for event in others:
        while not event.wait(0.05):
            publisher.publish(String(data="word"))
    assert len(rounds) <= len(others)
    answer.set_result("now")
    spun.spinner.wake()
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
    spinner.wake()
    return rounds


def failing(words: list[str]) -> Callable[[String], None]:
    def hear(message: String) -> None:
        words.append(message.data)
        if message.data == "bad":
            raise ZeroDivisionError(message.data)

    return hear


def test_what_a_callback_raises_comes_out_and_it_can_be_spun_on(spun: Spun) -> None:
    words: list[str] = []
    answer, asked = answering_later(spun.node, "later")
    future = spun.ask("later")
    assert asked.wait(WAIT_SEC)
    spun.node.create_subscription(String, "words", failing(words), 10)
    publisher = spun.asking.create_publisher(String, "words", 10)
    while not spun.failed.wait(0.05):
        publisher.publish(String(data="bad"))
    assert isinstance(spun.ends[0], ZeroDivisionError)
    answer.set_result("still there")
    spun.spinner.wake()
    assert spun.result(future).message == "still there"


def test_a_task_given_from_another_thread_runs(spun: Spun) -> None:
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


VERSIONS = {
    "3.3.16": False, "7.1.6": False, "7.1.10": False, "7.1.11": True, "8.0.0": False,
    "9.1.1": False, "9.1.2": True, "9.2.0": True, "10.0.0": False, "10.0.1": True,
    "11.0.0": True, "": False,
}  # fmt: skip


@pytest.mark.parametrize(("version", "awaits"), VERSIONS.items())
def test_events_are_taken_by_themselves_where_tried_and_refused_where_services_would_fail(
    context: Any, version: str, awaits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if not version:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    made: list[object] = []
    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.setattr(spinning, "_events_executor", lambda context: made.append(context))
    spinner = new_spinner("auto", context)
    assert len(made) == version.startswith("9.") * awaits
    if not made:
        assert isinstance(spinner.executor, SingleThreadedExecutor)
        spinner.executor.shutdown()
    made.clear()
    if awaits:
        new_spinner("events", context)
        assert made == [context]
    else:
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
