"""Command lines to which ROS adds arguments: ``--ros-args ... --``. Nothing here needs ROS."""

from __future__ import annotations

from collections.abc import Sequence


def split_ros_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a program's own arguments, and ROS's with the words around them.

    rclpy's ``remove_ros_args`` also takes ``NAME:=VALUE`` outside of them, as an old way to rename
    topics: what is given so by mistake would be lost without a word.

    Args:
        arguments: Without the program's name.
    """
    ours: list[str] = []
    of_ros: list[str] = []
    is_for_ros = False
    for argument in arguments:
        if argument == "--ros-args":
            is_for_ros = True
        (of_ros if is_for_ros else ours).append(argument)
        if is_for_ros and argument == "--":
            is_for_ros = False
    return ours, of_ros
