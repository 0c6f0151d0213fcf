"""Functions are called when they are due, in their order, unless they were cancelled."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref

import pytest

pytest.importorskip("rclpy", reason="alarms belong to the node")

from vla_retrieval.ros import alarms as module
from vla_retrieval.ros.alarms import Alarms

from .inference import WAIT_SEC

FAR_SEC = 1000.0


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


def now() -> float:
    return time.monotonic()


def test_each_is_called_once_it_is_due_and_none_before_another_that_is_due_first(
    alarms: Alarms,
) -> None:
    called: list[tuple[str, bool]] = []
    done = threading.Event()
    begun = now()

    def note(name: str, at_sec: float) -> None:
        called.append((name, now() >= at_sec))
        if name == "last":
            done.set()

    for name, at_sec in (("last", begun + 0.2), ("first", begun + 0.05), ("past", begun - 1.0)):
        alarms.at(at_sec, lambda name=name, at_sec=at_sec: note(name, at_sec))  # type: ignore[misc]
    assert done.wait(WAIT_SEC)
    assert called == [("past", True), ("first", True), ("last", True)]


def test_one_that_is_sooner_than_those_that_wait_does_not_wait_for_them(alarms: Alarms) -> None:
    alarms.at(now() + FAR_SEC, lambda: None)
    done = threading.Event()
    alarms.at(now() + 0.01, done.set)
    assert done.wait(WAIT_SEC)


def test_a_cancelled_one_is_not_called_and_lets_go_of_what_it_held(alarms: Alarms) -> None:
    class Held:
        def run(self) -> None:
            called.append("cancelled")

    called: list[str] = []
    held, done = Held(), threading.Event()
    watch = weakref.ref(held)
    alarm = alarms.at(now() + 0.05, held.run)
    alarm.cancel()
    alarm.cancel()
    del held
    gc.collect()
    assert watch() is None
    alarms.at(now() + 0.1, done.set)
    assert done.wait(WAIT_SEC)
    assert called == []
    assert len(alarms) == 0


def test_many_that_were_cancelled_long_before_they_are_due_are_forgotten(alarms: Alarms) -> None:
    """As with each request that is answered in time."""
    kept = alarms.at(now() + FAR_SEC, lambda: None)
    for _ in range(2000):
        alarms.at(now() + FAR_SEC, lambda: None).cancel()
    assert len(alarms) == 1
    assert len(alarms._waiting) < 200
    kept.cancel()
    assert len(alarms) == 0


def test_one_that_fails_is_logged_and_the_next_one_is_called(
    alarms: Alarms, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    done = threading.Event()
    with caplog.at_level(logging.ERROR):
        alarms.at(now(), fail)
        alarms.at(now() + 0.01, done.set)
        assert done.wait(WAIT_SEC)
    assert "ZeroDivisionError: on purpose" in caplog.text


def test_the_thread_ends_when_nothing_is_to_come_and_another_one_begins_when_something_is(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_SEC", 0.01)
    for _ in range(3):
        done = threading.Event()
        alarms.at(now(), done.set)
        thread = alarms._thread
        assert done.wait(WAIT_SEC)
        if thread is not None:
            thread.join(WAIT_SEC)
            assert not thread.is_alive()
        assert alarms._thread is None


def test_where_no_thread_is_to_be_had_the_next_alarm_tries_again(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    first, second = threading.Event(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        alarms.at(now(), first.set)
    alarms.at(now(), second.set)
    assert first.wait(WAIT_SEC)
    assert second.wait(WAIT_SEC)
