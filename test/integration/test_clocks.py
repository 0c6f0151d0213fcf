"""Simulated time that stands still, starts over and jumps, as with a bag played in a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rosgraph_msgs.msg import Clock

from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval_msgs.msg import MatchArray, Status

from .harness import START_SEC, NodeProcess, Robot, image_message, picture, wait_until

SECOND = 1_000_000_000


class Simulation:
    """A node that goes by ``/clock``, and who publishes that."""

    def __init__(self, node: NodeProcess, robot: Robot) -> None:
        self.robot = robot
        self._clock = robot.client.node.create_publisher(Clock, "/clock", 1)
        wait_until(lambda: self._clock.get_subscription_count() > 0, "a node that reads /clock")
        self.diagnostics = robot.collect(DiagnosticArray, "/diagnostics")
        self.matches = robot.collect(MatchArray, "retrieval/matches")
        robot.wait_until_heard()

    def go_to(self, now_sec: int) -> None:
        """Return when the node has the time."""

        def has_it() -> bool:
            self._clock.publish(Clock(clock=to_stamp(now_sec * SECOND)))
            return any(m.header.stamp.sec == now_sec for m in self.diagnostics.messages)

        self.diagnostics.messages.clear()
        wait_until(has_it, f"simulated second {now_sec}", period_sec=0.05)

    def see(self, seed: int, stamp_sec: int) -> MatchArray:
        """Show the node a picture, and return what it publishes about it."""
        self.matches.messages.clear()

        def answered() -> bool:
            self.robot.show(picture(seed), stamp_sec * SECOND)
            return any(m.header.stamp.sec == stamp_sec for m in self.matches.messages)

        wait_until(answered, f"matches of second {stamp_sec}", period_sec=0.05)
        return next(m for m in self.matches.messages if m.header.stamp.sec == stamp_sec)

    def newest(self, **fields: Any) -> Any:
        """Ask about the newest frame."""
        return self.robot.call("retrieve", use_newest_frame=True, k=1, **fields)


@pytest.fixture
def simulation(start: Callable[..., NodeProcess], robot: Robot) -> Iterator[Simulation]:
    node = start(
        use_sim_time=True, diagnostics_period_sec=0.1, remember_mode="interval",
        remember_interval_sec=1.0,
    )  # fmt: skip
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    yield Simulation(node, robot)
    assert node.is_alive(), node.log
    assert "Traceback" not in node.log


def test_a_bag_that_starts_over_and_one_that_is_skipped_through(
    simulation: Simulation, robot: Robot
) -> None:
    """Ages are the simulation's, never below 0; deadlines, pairs and answers go on at each jump."""
    robot.say("pick up the cup")
    simulation.go_to(100)
    assert simulation.see(1, 98).image_age_sec == pytest.approx(2.0, abs=0.01)
    wait_until(lambda: robot.call("get_stats").memory_size == 1, "the first pair")

    simulation.go_to(130)
    assert simulation.newest().result.image_age_sec == pytest.approx(32.0, abs=0.01)

    simulation.go_to(5)  # the frame is of a time that has not come
    held = simulation.newest(timeout_sec=30.0)
    assert held.success, held.message
    assert held.result.image_age_sec >= 2.0
    assert simulation.see(2, 4).image_age_sec == pytest.approx(1.0, abs=0.01)
    wait_until(lambda: robot.call("get_stats").memory_size == 2, "a pair of the second round")

    simulation.go_to(1_000_000)
    assert simulation.newest().result.image_age_sec == pytest.approx(1e6 - 4, rel=1e-4)
    assert simulation.see(3, 1_000_000).image_age_sec == pytest.approx(0.0, abs=0.01)
    wait_until(lambda: robot.call("get_stats").memory_size == 3, "a pair after the jump")
    late = simulation.newest(timeout_sec=1e-9)
    assert late.status.code == Status.DEADLINE_EXCEEDED


def test_a_stale_answer_has_aged_by_simulated_time(simulation: Simulation) -> None:
    simulation.go_to(100)
    simulation.see(1, 98)
    fresh = simulation.newest(accept_stale=True)
    assert fresh.success, fresh.message
    simulation.go_to(130)
    stale = simulation.newest(accept_stale=True, timeout_sec=1e-9)
    assert stale.result.stale, stale.message
    assert stale.result.image_age_sec == pytest.approx(32.0, abs=0.01)


def test_a_camera_ahead_of_the_clock_is_reported_and_its_frames_count_as_new(
    simulation: Simulation, robot: Robot
) -> None:
    """An age below 0 would pass for a very good one."""
    simulation.go_to(100)
    assert simulation.see(1, 160).image_age_sec == 0.0
    report = simulation.diagnostics.wait_for(
        lambda m: "ahead of" in m.status[0].message
    ).status[0]  # fmt: skip
    assert report.level == DiagnosticStatus.WARN
    assert "60.0 s ahead" in report.message
    assert "use_sim_time" in report.message
    facts = {pair.key: pair.value for pair in report.values}
    assert float(facts["newest_frame_age_sec"]) >= 0.0


def test_a_timer_of_queries_goes_on_after_simulated_time_started_over(
    start: Callable[..., NodeProcess], robot: Robot
) -> None:
    """At its rate in simulated time."""
    node = start(
        use_sim_time=True, diagnostics_period_sec=0.1, query_mode="timer", query_rate_hz=1.0
    )
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    robot.call("remember", image=image_message(picture(1), 1), instruction="cup")
    simulation = Simulation(node, robot)
    for beginning in (1000, 10):
        simulation.go_to(beginning)
        simulation.matches.messages.clear()

        def ticked(beginning: int = beginning) -> bool:
            robot.show(picture(1), beginning * SECOND)
            ticked.now += 1  # type: ignore[attr-defined]
            simulation.go_to(ticked.now)  # type: ignore[attr-defined]
            return any(m.header.stamp.sec == beginning for m in simulation.matches.messages)

        ticked.now = beginning  # type: ignore[attr-defined]
        wait_until(ticked, f"matches after second {beginning}")
