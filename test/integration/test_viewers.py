"""The topics that RViz and Foxglove are set up for, against the graph of a running node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from diagnostic_msgs.msg import DiagnosticArray

from vla_retrieval_msgs.msg import MatchArray

from .harness import START_SEC, NodeProcess, Robot, wait_until

CONFIG = Path(__file__).parents[2] / "config"
RVIZ_TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
}
FOXGLOVE_TYPES = {
    "3D": "visualization_msgs/msg/MarkerArray",
    "Image": "sensor_msgs/msg/Image",
    "RawMessages": "vla_retrieval_msgs/msg/MatchArray",
    "Table": "vla_retrieval_msgs/msg/MatchArray",
    "Indicator": "vla_retrieval_msgs/msg/MatchArray",
    "Plot": "vla_retrieval_msgs/msg/MatchArray",
    "DiagnosticSummary": "diagnostic_msgs/msg/DiagnosticArray",
    "DiagnosticStatusPanel": "diagnostic_msgs/msg/DiagnosticArray",
    "RosOut": "rcl_interfaces/msg/Log",
}


def in_rviz() -> set[tuple[str, str]]:
    """Return the topics of RViz's displays with the types that they show."""
    tree = yaml.safe_load((CONFIG / "retrieval.rviz").read_text(encoding="utf-8"))
    displays = tree["Visualization Manager"]["Displays"]
    return {(d["Topic"]["Value"], RVIZ_TYPES[d["Class"]]) for d in displays if "Topic" in d}


def in_foxglove() -> set[tuple[str, str]]:
    """Return the topics of Foxglove's panels with the types that they show."""
    tree = json.loads((CONFIG / "foxglove_layout.json").read_text(encoding="utf-8"))
    return {
        (topic, FOXGLOVE_TYPES[name.partition("!")[0]])
        for name, config in tree["configById"].items()
        for topic in topics(config)
    }


def topics(config: dict[str, Any]) -> Iterator[str]:
    """Return the topics that a panel shows."""
    yield from config.get("topics", {})
    yield from (path["value"].partition(".")[0] for path in config.get("paths", ()))
    for key in ("path", "topicPath", "topicToRender"):
        if key in config:
            yield config[key].partition(".")[0]
    if "imageTopic" in config.get("imageMode", {}):
        yield config["imageMode"]["imageTopic"]


def panels(kind: str) -> list[dict[str, Any]]:
    """Return what Foxglove's panels of a kind are set to."""
    tree = json.loads((CONFIG / "foxglove_layout.json").read_text(encoding="utf-8"))
    return [c for name, c in tree["configById"].items() if name.partition("!")[0] == kind]


def at(path: str) -> Any:
    """Return what is at a path of Foxglove's in an answer without matches."""
    value: Any = MatchArray()
    for name in path.split(".")[1:]:
        value = getattr(value, name)
    return value


def test_the_viewers_show_topics_that_the_node_has_with_their_types(
    start: Callable[..., NodeProcess], robot: Robot
) -> None:
    node = start()
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log

    def graph() -> set[tuple[str, str]]:
        found = robot.client.node.get_topic_names_and_types()
        return {(name, kind) for name, kinds in found for kind in kinds}

    wanted = in_rviz() | in_foxglove()
    assert len(wanted) == 6
    wait_until(lambda: wanted <= graph(), f"{wanted}, the graph has {graph()}")


def test_what_foxglove_plots_are_numbers_of_the_message() -> None:
    (plot,) = panels("Plot")
    assert plot["paths"]
    for path in plot["paths"]:
        assert isinstance(at(path["value"]), float)


def test_foxglove_tabulates_the_matches() -> None:
    (table,) = panels("Table")
    assert at(table["topicPath"]) == []


def test_foxglove_has_a_colour_and_words_for_each_value_of_known() -> None:
    (indicator,) = panels("Indicator")
    assert indicator["path"].endswith(".known")
    assert isinstance(at(indicator["path"]), int)
    assert indicator["fallbackLabel"] == "no answer yet"
    labels = {rule["rawValue"]: rule["label"] for rule in indicator["rules"]}
    assert labels == {
        str(MatchArray.KNOWN_NOT_CALIBRATED): "not calibrated",
        str(MatchArray.KNOWN_YES): "known",
        str(MatchArray.KNOWN_NO): "nothing like it is known",
    }
    colours = {rule["color"] for rule in indicator["rules"]} | {indicator["fallbackColor"]}
    assert len(colours) == 4


def test_foxglove_shows_a_status_that_the_node_has(
    start: Callable[..., NodeProcess], robot: Robot
) -> None:
    node = start()
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    seen: set[tuple[str, str]] = set()

    def on_diagnostics(message: DiagnosticArray) -> None:
        seen.update((status.hardware_id, status.name) for status in message.status)

    robot.client.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    (panel,) = panels("DiagnosticStatusPanel")
    wanted = panel["selectedHardwareId"], panel["selectedName"]
    wait_until(lambda: wanted in seen, f"a status of {wanted}")
