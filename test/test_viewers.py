"""What ships for RViz and Foxglove is well-formed and names what the node has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = Path(__file__).parents[1] / "config"
RVIZ = yaml.safe_load((CONFIG / "retrieval.rviz").read_text(encoding="utf-8"))
FOXGLOVE = json.loads((CONFIG / "foxglove_layout.json").read_text(encoding="utf-8"))

# RViz's own words for QoS (rviz_common, QosProfileProperty), and what each display has to have.
QOS = {
    "History Policy": {"Keep Last", "Keep All"},
    "Reliability Policy": {"Reliable", "Best Effort"},
    "Durability Policy": {"Volatile", "Transient Local"},
}
# What RViz's classes read, taken from the properties that their constructors make and what their
# load() asks for (rviz_common and rviz_default_plugins: src, the same on humble, jazzy and
# rolling). RViz says nothing about a name that it does not know: it shows its default.
SHOWN = {"Class", "Name", "Enabled", "Value"}
CAMERA = {"Class", "Name", "Value", "Target Frame", "Near Clip Distance"}
RVIZ_READS = {
    "rviz_default_plugins/Grid": SHOWN | {
        "Alpha", "Cell Size", "Color", "Line Style", "Normal Cell Count", "Offset", "Plane",
        "Plane Cell Count", "Reference Frame",
    },
    "rviz_default_plugins/TF": SHOWN | {
        "Frame Timeout", "Frames", "Marker Scale", "Show Arrows", "Show Axes", "Show Names",
        "Tree", "Update Interval",
    },
    "rviz_default_plugins/MarkerArray": SHOWN | {"Namespaces", "Topic"},
    "rviz_default_plugins/Image": SHOWN | {
        "Max Value", "Median window", "Min Value", "Normalize Range", "Topic",
    },
    "rviz_default_plugins/Interact": {"Class", "Hide Inactive Objects"},
    "rviz_default_plugins/MoveCamera": {"Class"},
    "rviz_default_plugins/Select": {"Class"},
    "rviz_default_plugins/FocusCamera": {"Class"},
    "rviz_default_plugins/Measure": {"Class", "Line color"},
    "rviz_default_plugins/Orbit": CAMERA | {
        "Distance", "Focal Point", "Focal Shape Fixed Size", "Focal Shape Size", "Pitch", "Yaw",
    },
    "rviz_common/Displays": {
        "Class", "Help Height", "Name", "Property Tree Widget", "Tree Height",
    },
    "rviz_common/Selection": {"Class", "Name"},
    "rviz_common/Views": {"Class", "Expanded", "Name", "Splitter Ratio"},
}  # fmt: skip
# Panels of Foxglove's own, by the key that names the topic they show.
PANELS = {
    "3D": "topics",
    "Image": "imageMode",
    "RawMessages": "topicPath",
    "Table": "topicPath",
    "Indicator": "path",
    "Plot": "paths",
    "DiagnosticSummary": "topicToRender",
    "DiagnosticStatusPanel": "topicToRender",
    "RosOut": "topicToRender",
}


def displays() -> list[dict[str, Any]]:
    """Return RViz's displays that show a topic."""
    return [item for item in RVIZ["Visualization Manager"]["Displays"] if "Topic" in item]


def leaves(layout: Any) -> Iterator[str]:
    """Return the panels of a layout, those in tabs too, and check its splits."""
    if isinstance(layout, str):
        yield layout
        for tab in FOXGLOVE["configById"][layout].get("tabs", ()):
            assert tab["title"]
            yield from leaves(tab["layout"])
        return
    assert set(layout) == {"direction", "splitPercentage", "first", "second"}
    assert layout["direction"] in ("row", "column")
    assert 0 < layout["splitPercentage"] < 100
    yield from leaves(layout["first"])
    yield from leaves(layout["second"])


def test_rvizs_sections_are_those_that_it_writes_itself() -> None:
    assert set(RVIZ) == {"Panels", "Visualization Manager", "Window Geometry"}
    manager = RVIZ["Visualization Manager"]
    assert set(manager) == {
        "Class", "Displays", "Enabled", "Global Options", "Name", "Tools", "Transformation",
        "Value", "Views",
    }  # fmt: skip
    classes = [item["Class"] for item in (*manager["Displays"], *manager["Tools"])]
    assert all(name.startswith("rviz_default_plugins/") for name in classes)
    assert all(panel["Class"].startswith("rviz_common/") for panel in RVIZ["Panels"])
    shown = {name for name in RVIZ["Window Geometry"] if name in {d["Name"] for d in displays()}}
    images = {d["Name"] for d in displays() if d["Class"] == "rviz_default_plugins/Image"}
    assert shown == images, "a picture has a window of its own, by its name"


def test_rvizs_window_has_a_place_for_each_picture_and_panel_and_hides_none() -> None:
    """Without one, RViz stacks all of them at the left, each a few lines high."""
    window = RVIZ["Window Geometry"]
    images = [d["Name"] for d in displays() if d["Class"] == "rviz_default_plugins/Image"]
    docks = {*images, *(panel["Name"] for panel in RVIZ["Panels"])}
    for name in docks:
        # Qt writes names into QMainWindow's state as big-endian UTF-16.
        assert name.encode("utf-16-be").hex() in window["QMainWindow State"]
        assert window[name] == {"collapsed": False}
    assert set(window) - docks == {
        "Height", "Hide Left Dock", "Hide Right Dock", "QMainWindow State", "Width",
    }  # fmt: skip
    assert window["Hide Left Dock"] is window["Hide Right Dock"] is False


def test_rviz_reads_every_property_that_is_set() -> None:
    manager = RVIZ["Visualization Manager"]
    parts = [
        *manager["Displays"], *manager["Tools"], *RVIZ["Panels"], manager["Views"]["Current"],
    ]  # fmt: skip
    ignored = {
        (part["Class"], name) for part in parts for name in set(part) - RVIZ_READS[part["Class"]]
    }
    assert not ignored
    assert set(manager["Global Options"]) == {"Background Color", "Fixed Frame", "Frame Rate"}
    assert manager["Transformation"] == {"Current": {"Class": "rviz_default_plugins/TF"}}


@pytest.mark.parametrize("display", displays(), ids=lambda display: display["Name"])
def test_each_display_of_rviz_says_which_qos_it_wants(display: dict[str, Any]) -> None:
    topic = display["Topic"]
    assert set(topic) == {*QOS, "Depth", "Value"}
    assert all(topic[policy] in allowed for policy, allowed in QOS.items())
    assert display["Enabled"] is display["Value"] is True


def test_each_panel_of_foxglove_is_in_the_layout_once_and_is_one_of_its_own() -> None:
    placed = list(leaves(FOXGLOVE["layout"]))
    assert sorted(placed) == sorted(FOXGLOVE["configById"])
    for name, config in FOXGLOVE["configById"].items():
        kind, _, number = name.partition("!")
        assert number
        if kind != "Tab":
            assert config[PANELS[kind]]
            # The same under the key of Foxglove's and of Lichtblick's, its open continuation.
            assert config["foxglovePanelTitle"] == config["lichtblickPanelTitle"] != ""
    assert set(FOXGLOVE) == {
        "configById", "globalVariables", "userNodes", "playbackConfig", "layout",
    }  # fmt: skip
