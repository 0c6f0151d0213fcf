"""What every test shares: where ROS 2 or the messages are absent, ROS tests are skipped."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import pytest

# `colcon` runs tests with the Python that it runs with itself, which is easily the system's.
if pytest.version_tuple < (8,):
    raise pytest.UsageError(
        f"these tests need pytest 8 (requirements/dev.txt), and {sys.executable} has "
        f"{pytest.__version__}: use .venv's, as `colcon test` does after `. scripts/env.sh`, and "
        "`python -m colcon test` does in an environment of your own"
    )

if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # No test fails for its speed: on a busy machine an example takes seconds to make or to run.
    settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any machine")

# A script's background job ignores it, and so would each process that a test starts to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
# Folders whose tests need the graph or the messages.
ROS_FOLDERS = (HERE / "ros", HERE / "integration")


def missing_ros() -> str:
    """Returns why ROS tests cannot run here, or ''."""
    for package, remedy in (
        ("rclpy", "run scripts/setup, or source a ROS 2 installation"),
        ("vla_retrieval_msgs", "run scripts/setup, then `. scripts/env.sh`"),
        ("domain_coordinator", "install ros-$ROS_DISTRO-domain-coordinator"),
    ):
        spec = importlib.util.find_spec(package)
        # No origin: the source folder vla_retrieval_msgs/ looks like a package without code.
        if spec is None or spec.origin is None:
            return f"{package} is not installed: {remedy}"
    return ""


class RosFolder(pytest.Collector):
    """Stands for a folder that is skipped as a whole.

    It is no pytest.Dir: pytest would load the folder's conftest.py first, and that imports ROS.
    """

    def collect(self) -> list[pytest.Item]:
        pytest.skip(missing_ros(), allow_module_level=True)


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Replaces the folders of ROS tests where they cannot run."""
    if path in ROS_FOLDERS and missing_ros():
        return RosFolder.from_parent(parent, name=path.name, path=HERE)
    return None
