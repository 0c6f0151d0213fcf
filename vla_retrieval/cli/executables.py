"""What ``ros2 run`` starts: an executable's own main, or in words what it lacks.

A workspace is easily built with a Python that has not got the packages of
``requirements/runtime.txt``: plain ``colcon`` runs with the system's.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import Any

_ROS = ("rclpy", "ament_index_python", "builtin_interfaces", "rcl_interfaces")
_OWN = "vla_retrieval"
_MESSAGES = "vla_retrieval_msgs"


def run(name: str, main: str, interrupted: int = 130) -> Any:
    """Import an executable and run it.

    Args:
        name: Of the executable.
        main: Its function, as ``module:function``.
        interrupted: Exit code after Ctrl-C while it is imported, which takes seconds.

    Returns:
        What the function returns.

    Raises:
        SystemExit: With the reason on stderr and code 1, if a module of another package is not
            installed; with the function's own code, if it exits.
    """
    module, _, function = main.partition(":")
    try:
        return getattr(import_module(module), function)()
    except KeyboardInterrupt:
        sys.exit(interrupted)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", _OWN):
            raise
        sys.exit(f"{name}: the Python module {missing} is not installed. {_next_step(missing)}")


def _next_step(missing: str) -> str:
    if missing == _MESSAGES:
        return (
            "Build it and source the workspace: colcon build --base-paths . vla_retrieval_msgs, "
            "then . install/setup.bash"
        )
    if missing in _ROS or missing.endswith("_msgs"):
        return "It is ROS 2's: source that first, for example . /opt/ros/jazzy/setup.bash"
    return (
        f"This executable was built for {sys.executable}. Packages that rosdep has no keys for are "
        "listed in requirements/runtime.txt: run scripts/setup, or install them into an "
        "environment and build with its Python (README.md, On a robot)."
    )


retrieval_node = partial(run, "retrieval_node", "vla_retrieval.ros.main:executable", 0)
memory = partial(run, "memory", "vla_retrieval.cli.memory:main")
demo = partial(run, "demo", "vla_retrieval.cli.demo:main")
evaluate = partial(run, "evaluate", "vla_retrieval.cli.evaluate:main")
train = partial(run, "train", "vla_retrieval.cli.train:main")
replay_evaluation = partial(
    run, "replay_evaluation", "vla_retrieval.cli.replay_evaluation:main"
)  # fmt: skip
play_bag = partial(run, "play_bag", "vla_retrieval.cli.play_bag:main", 0)
