"""Parameters that are set while the node runs: all or none, and not all of them."""

from __future__ import annotations

from typing import Any

import pytest

from .harness import START_SEC, NodeProcess, Robot
from .parameters import Manager


@pytest.fixture
def manager(node: NodeProcess, robot: Robot) -> Manager:
    """Return who sets parameters of the module's active node."""
    assert robot.client.wait_until_active(node.is_alive, START_SEC)
    return Manager(robot)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"query_target": "everything"}, "expected one of scenes, instructions, pair"),
        ({"min_score": 5000.0}, "min_score"),
        ({"query_rate_hz": 0.0}, "query_rate_hz"),
        ({"head": "no/such/head"}, "No head at"),
        ({"head": "h" * 300}, "name too long"),
        ({"head": "/etc/passwd"}, "remote_paths_dir"),
        ({"head": "a" * 300}, "File name too long"),
        ({"memory_dir": "other"}, "memory_dir is read at configure"),
        ({"remote_paths_dir": "/"}, "read-only"),
        ({"k": "many"}, "type"),
    ],
)
def test_with_one_bad_value_nothing_is_changed(
    manager: Manager, bad: dict[str, Any], reason: str
) -> None:
    """Wherever it stands among the good ones."""
    names = ["scene_weight", "query_diversity", "k", "query_mode"]
    before = manager.get(*names)
    good = {"scene_weight": 0.25, "query_diversity": 0.75}
    for values in ({**good, **bad}, {**bad, **good}):
        result = manager.set_all_or_none(**values)
        assert not result.successful
        assert reason in result.reason
        assert manager.get(*names) == before


def test_good_values_are_changed_together(manager: Manager) -> None:
    values = {
        "k": 7, "min_score": -0.5, "query_rate_hz": 5.0, "scene_weight": 0.75,
        "query_mode": "timer", "diagnostics_period_sec": 0.5,
    }  # fmt: skip
    assert manager.set_all_or_none(**values).successful
    assert manager.get(*values) == list(values.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("durable", False), ("similarity", "dot"), ("index", "exact"), ("max_entries", 5),
        ("model", "double"), ("device", "cpu"), ("max_waiting_requests", 5),
        ("max_request_kb", 5), ("worker_stall_sec", 5.0), ("image_transport", "compressed"),
    ],
)  # fmt: skip
def test_what_is_read_at_configure_says_so(manager: Manager, name: str, value: Any) -> None:
    """And what can be changed instead."""
    before = manager.get(name)
    (result,) = manager.set(**{name: value})
    assert not result.successful
    assert f"{name} is read at configure" in result.reason
    assert "query_rate_hz" in result.reason
    assert manager.get(name) == before


@pytest.mark.parametrize("name", ["remote_paths_dir", "autostart"])
def test_what_only_the_start_decides_is_read_only(manager: Manager, name: str) -> None:
    """Also before configuring: who may set parameters may not widen what they reach."""
    (result,) = manager.set(**{name: manager.get(name)[0]})
    assert not result.successful
    assert "read-only" in result.reason
