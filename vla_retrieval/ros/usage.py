"""What ``retrieval_node --help`` prints, and what it takes on its command line: ROS's arguments."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Sequence

from rclpy.utilities import remove_ros_args

from vla_retrieval.ros.parameters import AUTOSTART, SPECS, Settings, Spec
from vla_retrieval.ros_arguments import split_ros_arguments

_WIDTH = 96
_DESCRIPTION = """\
A robot's memory of what it has seen and been told: subscribes to a camera (image, or
image/compressed) and to instructions (instruction), embeds both with CLIP, and answers which scenes
fit an instruction and which instructions a scene (~/matches, ~/retrieve).
"""
_EXAMPLES = """\
examples:
  ros2 run vla_retrieval retrieval_node --ros-args -r image:=/camera/image_raw \\
      -p memory_dir:=/data/memory -p remember_mode:=interval
  ros2 run vla_retrieval retrieval_node --ros-args --params-file robot.yaml -r __ns:=/robot
  ros2 param set /retrieval k 10          # while it runs, for those marked live
  ros2 launch vla_retrieval retrieval.launch.py --show-args

exit codes: 0 after Ctrl-C or SIGTERM, 1 where the start fails, 2 where the command line is wrong
"""


def read_command_line(arguments: Sequence[str]) -> None:
    """Print the help, or refuse what the node would ignore; return where all is well.

    Args:
        arguments: Without the program's name.

    Raises:
        SystemExit: With 0 after the help, with 2 where something is neither ROS's nor known.
    """
    parser = argparse.ArgumentParser(
        prog="retrieval_node",
        usage="retrieval_node [--help] [--ros-args -p NAME:=VALUE ... -r FROM:=TO ...]",
        description=_DESCRIPTION,
        epilog=f"{_parameters()}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _, strangers = parser.parse_known_args(split_ros_arguments(arguments)[0])
    if strangers:
        parser.error(
            f"expected only ROS arguments, got {' '.join(strangers)}; a parameter is given as "
            "--ros-args -p NAME:=VALUE, NAME:=VALUE alone is for ros2 launch"
        )
    try:
        remove_ros_args(["retrieval_node", *arguments])
    except RuntimeError as error:  # rcl's own class, which rclpy does not export
        # What follows is where in rcl's C code it was noticed.
        parser.error(str(error).partition(", at /")[0])


def _parameters() -> str:
    lines = [
        "parameters, with their defaults (live: can be changed while the node runs):",
        *_entry(AUTOSTART, True, Spec("Configure and activate at start, without being told.")),
    ]
    for field in dataclasses.fields(Settings):
        lines += _entry(field.name, field.default, SPECS[field.name])
    return "\n".join(lines)


def _entry(name: str, default: object, spec: Spec) -> list[str]:
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    text = spec.text
    if spec.choices:
        text += f" One of {', '.join(spec.choices)}."
    elif isinstance(default, (int, float)) and not isinstance(default, bool):
        text += f" Range {spec.low:g} to {spec.high:.10g}."
    if spec.live:
        text += " Live."
    indent = " " * 6
    head = f"  {name} ({shown or 'empty'})"
    return [head, *textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)]
