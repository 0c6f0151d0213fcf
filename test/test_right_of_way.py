"""Quick work goes first; slow work waits between its parts, not for ever and not for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from vla_retrieval import right_of_way
from vla_retrieval.right_of_way import RightOfWay, stand_back

LONG_SEC = 60.0


@pytest.fixture
def somebody_goes_first() -> tuple[RightOfWay, threading.Event, Callable[[], None]]:
    """A right of way that another thread has, the event that ends that, and a wait for its end."""
    way, begun, end = RightOfWay(), threading.Event(), threading.Event()

    def quick() -> None:
        with way.going_first():
            begun.set()
            assert end.wait(LONG_SEC)

    thread = threading.Thread(target=quick, daemon=True)
    thread.start()
    assert begun.wait(LONG_SEC)
    return way, end, thread.join


def test_slow_work_waits_until_nobody_goes_first(somebody_goes_first) -> None:
    way, end, _ = somebody_goes_first
    threading.Timer(0.05, end.set).start()
    assert 0 < way.give_way(LONG_SEC) < LONG_SEC


def test_slow_work_goes_on_when_it_has_waited_long_enough(somebody_goes_first) -> None:
    way, end, _ = somebody_goes_first
    assert way.give_way(0.01) >= 0.01
    assert way.give_way(0.0) == 0.0
    end.set()


def test_slow_work_does_not_wait_where_nobody_goes_first(somebody_goes_first) -> None:
    assert RightOfWay().give_way(LONG_SEC) == 0.0
    way, end, ended = somebody_goes_first
    end.set()
    ended()
    assert way.give_way(LONG_SEC) == 0.0


def test_whoever_goes_first_does_not_wait_for_itself_nor_for_others(somebody_goes_first) -> None:
    way, end, _ = somebody_goes_first
    with way.going_first():
        assert way.give_way(LONG_SEC) == 0.0
    end.set()


def test_an_error_in_quick_work_lets_slow_work_go_on() -> None:
    way = RightOfWay()
    with pytest.raises(ValueError, match="quick"), way.going_first():
        raise ValueError("quick")
    assert way.give_way(LONG_SEC) == 0.0


def test_a_thread_that_stands_back_waits_before_its_quick_work_and_nobody_waits_for_it(
    somebody_goes_first,
) -> None:
    way, end, _ = somebody_goes_first
    order: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def background() -> None:
        stand_back(1)
        with way.going_first():
            order.append("background")
            inside.set()
            assert go_on.wait(LONG_SEC)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(background)
        order.append("quick")
        end.set()
        assert inside.wait(LONG_SEC)
        assert way.give_way(LONG_SEC) == 0.0
        go_on.set()
        done.result(LONG_SEC)
    assert order == ["quick", "background"]


def test_going_first_within_going_first_still_goes_first(somebody_goes_first) -> None:
    way, end, _ = somebody_goes_first
    with way.going_first():
        with way.going_first():
            pass
        assert way.give_way(LONG_SEC) == 0.0
    end.set()


def test_nobody_waits_for_one_who_goes_first_and_does_not_come_back(
    somebody_goes_first, monkeypatch: pytest.MonkeyPatch
) -> None:
    way, end, _ = somebody_goes_first
    monkeypatch.setattr(right_of_way, "_QUICK_SEC", 0.0)
    assert way.give_way(LONG_SEC) < LONG_SEC
    end.set()
