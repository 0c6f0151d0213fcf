"""A node on a calibrated memory says what it knows, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.memory import Memory
from vla_retrieval.self_calibration import calibrate
from vla_retrieval.types import NewEntry
from vla_retrieval_msgs.msg import MatchArray, Query

from .harness import START_SEC, NodeProcess, Robot

COLOURS = {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (30, 60, 210)}


def calibrated_memory(directory: Path) -> None:
    """Leave a closed memory with ten visits to each of three colours, calibrated."""
    encoder = DoubleEncoder()
    rng = np.random.default_rng(0)
    entries, images = [], []
    for visit in range(10):
        for name, colour in COLOURS.items():
            noise = rng.integers(-20, 20, (16, 16, 3))
            images.append(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
            entries.append(NewEntry(f"the {name} cup", 0, episode_id=f"{name} {visit}"))
    texts = encoder.encode_instructions([entry.instruction for entry in entries])
    with Memory.open(directory, encoder.fingerprint, durable=False) as memory:
        memory.add(entries, encoder.encode_images(images), texts)
        found = calibrate(memory, alpha=0.1)
        memory.set_calibration(found.calibration.to_json())


def test_a_calibrated_node_knows_a_stored_instruction_and_not_an_absurd_one(
    start: Callable[..., NodeProcess], robot: Robot, tmp_path: Path
) -> None:
    calibrated_memory(tmp_path / "memory")
    node = start(memory_dir=tmp_path / "memory")
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    yes = robot.call("retrieve", instruction="the red cup").result
    assert yes.known == MatchArray.KNOWN_YES
    assert 0.5 < yes.known_confidence <= 1.0
    no = robot.call("retrieve", instruction="quantum chromodynamics lecture").result
    assert no.known == MatchArray.KNOWN_NO
    assert 0.0 <= no.known_confidence < 0.5
    assert no.matches
    hidden = robot.call("retrieve", instruction="the red cup", min_score=0.9999).result
    assert not hidden.matches
    assert hidden.known == MatchArray.KNOWN_YES
    verbatim = robot.call(
        "retrieve", instruction="the red cup", target=Query.TARGET_INSTRUCTIONS
    ).result
    assert verbatim.known == MatchArray.KNOWN_NOT_CALIBRATED
    assert math.isnan(verbatim.known_confidence)
