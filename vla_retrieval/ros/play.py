"""Plays a bag from a node of its own, with a progress bar."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vla_retrieval.ros.player import BagPlayer
from vla_retrieval.ros.player import Progress as Played


def play_bag(
    bag: Path,
    topics: Mapping[str, str],
    rate: float,
    stop: threading.Event,
    *,
    loop: bool = False,
    wait: bool = True,
    ros_arguments: Sequence[str] = (),
) -> int:
    """Play a bag until its end or ``stop``; return the number of messages sent.

    Args:
        bag: A rosbag2 directory or one storage file.
        topics: Topic in the bag -> topic in the graph; empty is all.
        rate: Speed against the bag's own time.
        stop: Ends it early.
        loop: Start over at the end.
        wait: Begin only when every topic has a subscriber.
        ros_arguments: ROS's own, with ``--ros-args``: names, namespace, remappings.

    Raises:
        InvalidInputError: If there is no readable bag, it lacks one of the topics, or nothing was
            recorded on them.
    """
    # Not None, by which rclpy would read the command line itself.
    rclpy.init(args=list(ros_arguments), signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("play_bag")
    try:
        player = BagPlayer(node, bag, topics)
        with progress_bar() as bar:
            task = bar.add_task("", total=player.total)

            def report_wait(topics: list[str]) -> None:
                bar.update(task, description=f"waiting for a subscriber of {', '.join(topics)}")

            if wait:
                player.wait_for_subscribers(stop, report_wait, bar.console.print)

            def report(played: Played) -> None:
                bar.update(task, completed=played.played, description=played.topic)

            sent = player.play(rate, stop, report)
            while loop and not stop.is_set():
                sent += player.play(rate, stop, report)
        for sentence in player.damage:
            node.get_logger().warning(f"{bag}: {sentence}")
        return sent
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def progress_bar() -> Progress:
    """Return a bar that shows a description, a count and the time."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )
