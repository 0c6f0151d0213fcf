"""What the diagnostics say of a camera that is not there, or cannot be heard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Log
from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.ros.camera import Camera

from .harness import BEST_EFFORT, START_SEC, Collector, NodeProcess, Robot, image_message, picture
from .local_node import LocalNode

Start = Callable[..., NodeProcess]
QUICK = {"diagnostics_period_sec": 0.2, "frame_timeout_sec": 0.5, "device": "cpu"}


def begin(start: Start, robot: Robot, **parameters: Any) -> Collector:
    """Start a node, and return its diagnostics."""
    node = start(**QUICK, **parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return robot.collect(DiagnosticArray, "/diagnostics")


def warning(reports: Collector, text: str) -> str:
    """Return the first warning from now on that has a text in it."""
    reports.messages.clear()
    report = reports.wait_for(lambda m: text in m.status[0].message).status[0]
    assert report.level == DiagnosticStatus.WARN
    return str(report.message)


def until_well(reports: Collector) -> None:
    """Return when nothing is wrong any more."""
    reports.messages.clear()
    reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.OK)


def test_without_a_publisher_the_resolved_topic_is_named_and_what_else_there_is(
    start: Start, robot: Robot
) -> None:
    """And when it comes, the warning goes."""
    node = robot.client.node
    node.destroy_publisher(robot.camera)
    other = node.create_publisher(Image, "/eye/image_raw", BEST_EFFORT)
    reports = begin(start, robot)
    message = warning(reports, "no images yet")
    for words in (
        "0 publishers on /image (sensor_msgs/msg/Image)",
        "image_topic",
        "image_transport",
    ):
        assert words in message
    assert "published on /eye/image_raw." in warning(reports, "same type")
    node.destroy_publisher(other)
    camera = node.create_publisher(Image, "image", BEST_EFFORT)
    timer = node.create_timer(0.05, lambda: camera.publish(image_message(picture(1), 1)))
    until_well(reports)
    node.destroy_timer(timer)
    node.destroy_publisher(camera)
    assert "no more images: 0 publishers on /image" in warning(reports, "no more images")


def test_a_node_that_needs_no_camera_does_not_miss_one(start: Start, robot: Robot) -> None:
    """It answers services alone."""
    robot.client.node.destroy_publisher(robot.camera)
    reports = begin(start, robot, query_mode="never")
    reports.wait_for(lambda _: len(reports.messages) > 6)
    assert all(m.status[0].level == DiagnosticStatus.OK for m in reports.messages[1:])


def test_a_qos_that_does_not_fit_names_the_publisher_until_it_is_gone(
    start: Start, robot: Robot
) -> None:
    reports = begin(start, robot, image_reliability="reliable")
    message = warning(reports, "another QoS (reliability")
    for words in ("/robot publishes /image", "best effort", "Set image_reliability to best_effort"):
        assert words in message
    robot.client.node.destroy_publisher(robot.camera)
    reports.messages.clear()
    reports.wait_for(lambda m: "another QoS" not in m.status[0].message)


def test_another_type_on_the_topic_names_the_publisher_and_both_types(
    start: Start, robot: Robot
) -> None:
    node = robot.client.node
    # While the executor waits, it keeps what it waits for, and the topic with its type.
    robot.client.between_callbacks(lambda: node.destroy_publisher(robot.camera))
    node.create_publisher(CompressedImage, "image", BEST_EFFORT)
    message = warning(begin(start, robot), "/robot publishes")
    assert "sensor_msgs/msg/CompressedImage on /image" in message
    assert "reads sensor_msgs/msg/Image there" in message


def test_the_log_has_every_warning_and_not_the_first_one_only(
    domain: int, tmp_path: Path, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Camera, "warnings", lambda *_: ["One is wrong.", "Two is wrong."])
    # No divisor of the 10 s after which it is warned again, so that no warning slips through.
    node = LocalNode(tmp_path / "memory", diagnostics_period_sec=0.3)
    try:
        log = robot.collect(Log, "/rosout")
        log.wait_for(lambda message: "Two is wrong." in message.msg)
        log.wait_for(lambda message: "One is wrong." in message.msg)
    finally:
        node.close()
