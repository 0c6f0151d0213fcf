"""The parameters, the YAML and the README tell the same story."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from vla_retrieval.ros.parameters import SPECS, Settings

ROOT = Path(__file__).parents[2]
DEFAULTS = dataclasses.asdict(Settings())


def test_every_setting_has_a_specification_and_the_other_way_round() -> None:
    """Nothing is declared twice or not at all."""
    assert set(SPECS) == set(DEFAULTS)


def test_the_yaml_holds_every_parameter_with_its_default() -> None:
    """config/retrieval.yaml is what the node does without a file."""
    tree = yaml.safe_load((ROOT / "config" / "retrieval.yaml").read_text())
    assert tree == {"/**": {"ros__parameters": {"autostart": True, **DEFAULTS}}}


@pytest.mark.parametrize("name", SPECS)
def test_the_yaml_describes_each_parameter(name: str) -> None:
    """The comment above a parameter is its description."""
    words = (ROOT / "config" / "retrieval.yaml").read_text().replace("#", " ").split()
    assert SPECS[name].text in " ".join(words)


@pytest.mark.parametrize("name", SPECS)
def test_the_readme_lists_each_parameter_with_its_default_and_description(name: str) -> None:
    """A row of the table reads: name, default, description."""
    default = DEFAULTS[name]
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    readme = (ROOT / "README.md").read_text()
    row = re.search(rf"^\| `{name}` \| (.*?) \| (.*?) \|$", readme, re.MULTILINE)
    assert row is not None, f"README.md has no row for {name}"
    assert row[1].strip("`") == shown
    assert row[2].startswith(SPECS[name].text)


@pytest.mark.parametrize("name", SPECS)
def test_each_default_is_within_its_own_bounds(name: str) -> None:
    """The node starts with the values it ships with."""
    spec, default = SPECS[name], DEFAULTS[name]
    if spec.choices:
        assert default in spec.choices
    elif isinstance(default, (int, float)) and not isinstance(default, bool):
        assert spec.low <= default <= spec.high
