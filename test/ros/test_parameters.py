"""The parameters, the YAML and their page tell the same story."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from vla_retrieval.memory import Eviction, MemoryOptions
from vla_retrieval.ros.parameters import SPECS, Settings, not_declared
from vla_retrieval.ros.session import memory_options

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
def test_the_page_of_parameters_lists_each_with_its_default_and_description(name: str) -> None:
    """A row of the table reads: name, default, description."""
    default = DEFAULTS[name]
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    page = (ROOT / "docs" / "parameters.md").read_text()
    row = re.search(rf"^\| `{name}` \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert row is not None, f"docs/parameters.md has no row for {name}"
    assert row[1].strip("`") == shown
    assert row[2].startswith(SPECS[name].text)


def test_what_a_node_does_not_have_is_named_with_what_is_like_it() -> None:
    """What it has, and what rclpy declares with a topic, is not."""
    given = ["k", "max_entires", "qos_overrides./image.subscription.depth", "banana"]
    assert not_declared(given, ["k", "max_entries"]) == [
        "there is no parameter banana: what was given for it is not used.",
        "there is no parameter max_entires: what was given for it is not used."
        " Did you mean max_entries?",
    ]


@pytest.mark.parametrize("name", SPECS)
def test_each_default_is_within_its_own_bounds(name: str) -> None:
    """The node starts with the values it ships with."""
    spec, default = SPECS[name], DEFAULTS[name]
    if spec.choices:
        assert default in spec.choices
    elif isinstance(default, (int, float)) and not isinstance(default, bool):
        assert spec.low <= default <= spec.high


def test_the_defaults_are_those_of_the_memory() -> None:
    """A node without a file runs its memory as the library does."""
    assert memory_options(Settings()) == MemoryOptions()


def test_every_parameter_of_the_memory_reaches_it() -> None:
    """Megabytes become bytes, also where those need more than 32 bits."""
    most_mb = int(SPECS["max_memory_mb"].high)
    settings = Settings(
        index="pq_sq8", index_memory_mb=5000, recall_target=0.75, search_threads=2,
        build_threads=3, max_entries=10**9, max_memory_mb=most_mb, eviction="least_used",
        merge_scene_similarity=0.5, merge_instruction_similarity=0.25, merge_within_sec=60.0,
    )  # fmt: skip
    assert memory_options(settings) == MemoryOptions(
        index="pq_sq8", index_bytes=5000 * 2**20, recall_target=0.75, search_threads=2,
        build_threads=3, max_entries=10**9, max_bytes=most_mb * 2**20,
        eviction=Eviction.LEAST_USED, merge_scene=0.5, merge_instruction=0.25,
        merge_within_sec=60.0,
    )  # fmt: skip
    assert most_mb * 2**20 < 2**63


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize(
    "name", [name for name, value in DEFAULTS.items() if type(value) in (int, float)]
)
def test_what_the_node_lets_through_the_memory_takes(name: str, end: str) -> None:
    """No parameter in its range fails at configure."""
    kind = type(DEFAULTS[name])
    value = kind(getattr(SPECS[name], end))
    memory_options(dataclasses.replace(Settings(), **{name: value}))
