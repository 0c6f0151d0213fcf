"""Launch files through the real ``ros2`` command, where it is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from .harness import WAIT_SEC, wait_until

_SPIN_SEC = "5"  # ros2 waits so long for discovery; its daemon would outlive the test


def ros2() -> str:
    """Return the command, or skip the test."""
    found = shutil.which("ros2")
    if found is None:
        pytest.skip("the command ros2 comes with a ROS 2 installation only")
    return found


class Launched:
    """A launch that runs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Take over what was started."""
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """What it and its processes have printed so far."""
        return self._log.read_text(errors="replace")

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def wait_for_log(self, text: str) -> None:
        """Return once a text was printed."""
        wait_until(lambda: text in self.log or not self.is_alive(), f"{text!r} in the log")
        assert text in self.log, self.log


@contextmanager
def launch(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Launched]:
    """Run ``ros2 launch`` with arguments, and end it as Ctrl-C does."""
    log = folder / "launch.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [ros2(), "launch", *arguments], stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    try:
        yield Launched(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(WAIT_SEC)


def say(*arguments: str, node: str = "") -> str:
    """Return what a ``ros2`` command prints; with a node, one that looks for nodes itself."""
    looks = ("--no-daemon", "--spin-time", _SPIN_SEC, node) if node else ()
    verb, rest = arguments[:2], arguments[2:]
    done = subprocess.run(
        [ros2(), *verb, *looks, *rest], capture_output=True, text=True, timeout=2 * WAIT_SEC,
        check=False,
    )  # fmt: skip
    return f"{done.stdout}{done.stderr}"
