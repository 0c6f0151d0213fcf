"""Command lines to which ROS adds arguments: ``--ros-args ... --``. Nothing here needs ROS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_retrieval.errors import InvalidInputError


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


def check_number(name: str, given: str, kind: type) -> None:
    """Refuse a launch argument that is no number where one is wanted: launch names it not.

    Args:
        name: Of the argument.
        given: As it was given.
        kind: What it becomes; anything but ``int`` and ``float`` passes.

    Raises:
        InvalidInputError: If it cannot become that.
    """
    if kind not in (int, float):
        return
    try:
        kind(given)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InvalidInputError(name, expected, repr(given)) from None


def parameter_file(path: str) -> str:
    """Return the path of a launch argument's parameter file, for launch files.

    launch_ros starts a node with its defaults where the file is not there, and only warns; no shell
    expands the ~ of ``params_file:=~/robot.yaml``.

    Args:
        path: As it was given; ~ is the home.

    Raises:
        InvalidInputError: If there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InvalidInputError("params_file", "a YAML file with parameters", f"no file at {file}")
    return str(file)
