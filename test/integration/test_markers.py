"""Matches as markers, between two processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from vla_retrieval_msgs.msg import Entry

from .harness import START_SEC, Collector, NodeProcess, Robot, image_message, picture, wait_until
from .parameters import Manager

SECOND = 1_000_000_000


def begin(start: Callable[..., NodeProcess], robot: Robot) -> NodeProcess:
    """Start a node, and return it when it hears the camera."""
    node = start(k=3)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    robot.wait_until_heard()
    return node


def remember(robot: Robot, seed: int, **fields: Any) -> int:
    """Remember a made-up pair."""
    image = image_message(picture(seed), seed)
    answer = robot.call("remember", image=image, instruction=f"task {seed}", **fields)
    assert answer.success, answer.message
    return int(answer.entry_id)


def at(x: float) -> dict[str, Any]:
    """Return the fields of a pose."""
    pose = PoseStamped(header=Header(frame_id="map"))
    pose.pose.position.x, pose.pose.orientation.w = x, 1.0
    return {"has_camera_pose": True, "camera_pose": pose}


def show_until(robot: Robot, markers: Collector, wanted: Callable[[set[Any]], bool]) -> list[Any]:
    """Let the camera see a picture until the newest markers are wanted ones, and return them."""

    def newest() -> list[Any]:
        return markers.messages[-1].markers if markers.messages else []

    def come() -> bool:
        robot.show(picture(1), SECOND + len(markers.messages))
        return wanted({(m.ns, m.id) for m in newest() if m.action == Marker.ADD})

    wait_until(come, "markers", period_sec=0.1)
    return newest()


def test_matches_are_drawn_where_their_cameras_stood_until_they_are_forgotten(
    start: Callable[..., NodeProcess], robot: Robot
) -> None:
    begin(start, robot)
    first = remember(robot, 1, outcome=Entry.OUTCOME_SUCCESS, **at(1.0))
    second, homeless = remember(robot, 2, **at(2.0)), remember(robot, 3)
    markers = robot.collect(MarkerArray, "retrieval/markers")
    shown = show_until(robot, markers, lambda names: ("cameras", 1) in names)
    assert shown[0].action == Marker.DELETEALL
    cameras = {m.pose.position.x: m for m in shown if m.ns == "cameras"}
    assert set(cameras) == {1.0, 2.0}
    assert all(m.header.frame_id == "map" for m in cameras.values())
    texts = [m.text for m in shown if m.ns == "labels"]
    assert any(f"#{first}, success: task 1" in text for text in texts)
    assert any(f"#{second}: task 2" in text for text in texts)
    (note,) = (m.text for m in shown if m.ns == "note")
    assert note.startswith("1 of 3 matches remembered without a camera pose")
    assert f"#{homeless}" in note
    assert robot.call("forget", entry_ids=[first]).success

    def one_left(names: set[Any]) -> bool:
        return sum(namespace == "cameras" for namespace, _ in names) == 1

    left = show_until(robot, markers, one_left)
    assert [m.pose.position.x for m in left if m.ns == "cameras"] == [2.0]


@pytest.mark.parametrize("transition", ["deactivate", "active_shutdown"])
def test_a_node_that_is_no_longer_active_takes_its_markers_away(
    start: Callable[..., NodeProcess], robot: Robot, transition: str
) -> None:
    node = begin(start, robot)
    remember(robot, 1, **at(1.0))
    markers = robot.collect(MarkerArray, "retrieval/markers")
    show_until(robot, markers, lambda names: ("cameras", 1) in names)
    assert Manager(robot).try_to(transition), node.log
    wait_until(
        lambda: [m.action for m in markers.messages[-1].markers] == [Marker.DELETEALL],
        "a message that deletes all markers",
    )
