"""Each test here has a ROS domain of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from domain_coordinator import domain_id

from .harness import START_SEC, NodeProcess, Robot, locks_of_segments, remove_abandoned

# No domain twice in one process: what a lifecycle node of this process left in the graph was seen
# there by later modules.
_DOMAINS = itertools.count(os.getpid())


def _next_domain() -> int:
    return next(_DOMAINS) % 100 + 1


@pytest.fixture(scope="session", autouse=True)
def _shared_memory() -> Iterator[None]:
    """Take back what nodes that were killed left of the machine's RAM, when all is over."""
    before = locks_of_segments()
    yield
    for lock in locks_of_segments() - before:
        remove_abandoned(lock)


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    """Give the module a ROS domain that no other test on this machine uses."""
    with (
        domain_id(_next_domain) as number,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("ROS_DOMAIN_ID", str(number))
        yield number


@pytest.fixture
def start(domain: int, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Return a function that starts a node; what it starts is stopped at the end."""
    started: list[NodeProcess] = []

    def start_node(**parameters: Any) -> NodeProcess:
        values = {"memory_dir": tmp_path / "memory", **parameters}
        started.append(NodeProcess(tmp_path / f"node{len(started)}.log", **values))
        return started[-1]

    yield start_node
    for node in started:
        node.stop()


@pytest.fixture
def robot(domain: int) -> Iterator[Robot]:
    """Return what is around a node."""
    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def node(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Return an active node that the module's tests share."""
    folder = tmp_path_factory.mktemp("shared")
    node = NodeProcess(folder / "node.log", memory_dir=folder / "memory")
    try:
        robot = Robot()
        active = robot.client.wait_until_active(node.is_alive, START_SEC)
        robot.close()
        assert active, f"exit code {node.process.poll()}: {node.log}"
        yield node
        assert node.is_alive(), f"exit code {node.process.poll()}: {node.log}"
    finally:
        exit_code = node.stop()
    assert exit_code == 0, node.log
    assert "Traceback" not in node.log
