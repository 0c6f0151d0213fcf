"""The security policy that ships, against the graph of a running node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rclpy.node import NodeNameNonExistentError

from .harness import START_SEC, NodeProcess, Robot, wait_until

POLICY = Path(__file__).parents[2] / "config" / "security" / "retrieval.policy.xml"
KINDS = {
    ("topics", "publish"): "get_publisher_names_and_types_by_node",
    ("topics", "subscribe"): "get_subscriber_names_and_types_by_node",
    ("services", "reply"): "get_service_names_and_types_by_node",
    ("services", "request"): "get_client_names_and_types_by_node",
}


def allowed(enclave: str) -> dict[tuple[str, str], set[str]]:
    """Return what a policy allows an enclave's node, by kind, as names in the graph."""
    root = ElementTree.parse(POLICY).getroot()
    profile = root.find(f"./enclaves/enclave[@path='{enclave}']/profiles/profile")
    assert profile is not None, f"no {enclave} in {POLICY}"
    node = f"/{profile.get('node')}"
    found: dict[tuple[str, str], set[str]] = {kind: set() for kind in KINDS}
    for rule in profile:
        (what, verdict), *others = [(k, v) for k, v in rule.attrib.items()]
        assert verdict == "ALLOW", rule.attrib
        assert not others
        for name in rule:
            assert name.text
            full = node + name.text[1:] if name.text.startswith("~") else f"/{name.text}"
            assert full not in found[(rule.tag, what)], f"{full} is allowed twice"
            found[(rule.tag, what)].add(full)
    return found


def used(robot: Robot) -> dict[tuple[str, str], set[str]]:
    """Return what the running node has in the graph, as far as that is known yet."""
    ask = robot.client.node
    found: dict[tuple[str, str], set[str]] = {kind: set() for kind in KINDS}
    # A service can be there before the name of its node is.
    with contextlib.suppress(NodeNameNonExistentError):
        for kind, method in KINDS.items():
            found[kind] = {name for name, _ in getattr(ask, method)("retrieval", "/")}
    return found


@pytest.mark.parametrize(
    ("parameters", "unused"),
    [
        ({}, {"/image/compressed", "/clock"}),
        ({"image_transport": "compressed", "use_sim_time": True}, {"/image"}),
    ],
)
def test_the_node_may_do_what_it_does_and_nothing_else(
    start: Callable[..., NodeProcess], robot: Robot, parameters: dict[str, Any], unused: set[str]
) -> None:
    """Each topic and service of the real graph is in the policy, and the other way round."""
    node = start(**parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    policy = allowed("/retrieval")
    policy[("topics", "subscribe")] -= unused
    wait_until(lambda: used(robot) == policy, f"{policy}, the graph has {used(robot)}")


def test_the_planner_of_the_example_may_ask_for_what_the_node_offers() -> None:
    """Each of its names is one of the node's."""
    planner, node = allowed("/planner"), allowed("/retrieval")
    assert planner[("services", "request")] < node[("services", "reply")]
    assert "/retrieval/forget" not in planner[("services", "request")]
    assert "/retrieval/matches" in planner[("topics", "subscribe")]
    assert "/instruction" in node[("topics", "subscribe")] & planner[("topics", "publish")]
