"""A memory with bounds, near-duplicates and an approximate index, behind a running node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.memory import Memory
from vla_retrieval.memory.building import FEWEST_TO_FIT
from vla_retrieval.types import NewEntry
from vla_retrieval_msgs.msg import Entry, Filter, Query, Status

from .harness import START_SEC, NodeProcess, Robot, image_message, picture, wait_until

Start = Callable[..., NodeProcess]
_ENTRIES = FEWEST_TO_FIT + 100


def begin(start: Start, robot: Robot, **parameters: Any) -> NodeProcess:
    """Start a node, and return it when it is active."""
    node = start(**parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def remember(robot: Robot, seed: int, **fields: Any) -> Any:
    """Remember a made-up pair and return the response."""
    image = image_message(picture(seed), seed)
    return robot.call("remember", image=image, instruction="work", **fields)


def test_a_full_memory_makes_room_and_keeps_what_is_pinned_also_when_started_anew(
    start: Start, robot: Robot
) -> None:
    """The oldest that is not pinned goes; where none may go, nothing is stored."""
    node = begin(start, robot, max_entries=2)
    first, second = (remember(robot, seed).entry_id for seed in (1, 2))
    assert robot.call("pin", entry_ids=[first]).success
    third = remember(robot, 3)
    assert list(third.evicted_ids) == [second]
    assert robot.call("get_entry", entry_id=second).status.code == Status.NOT_FOUND
    node.wait_for_log(
        f"evicted: 1 because max_entries 2 was passed; oldest first, the last entry {second}"
    )
    assert node.stop() == 0

    begin(start, robot, max_entries=2)
    assert robot.call("get_entry", entry_id=first).entry.pinned
    fourth = remember(robot, 4, pinned=True)
    assert list(fourth.evicted_ids) == [third.entry_id]
    refused = remember(robot, 5)
    assert refused.status.code == Status.MEMORY_FULL
    assert "max_entries 2" in refused.message
    stats = robot.call("get_stats")
    assert (stats.memory_size, stats.evicted) == (2, 2)


def test_a_pair_that_says_nothing_new_is_merged(start: Start, robot: Robot) -> None:
    """Its answer names the entry that stands for it; another outcome is something new."""
    begin(start, robot, merge_scene_similarity=0.999)
    first = remember(robot, 1)
    again = remember(robot, 1)
    assert (first.merged, again.merged) == (False, True)
    assert again.entry_id == first.entry_id
    assert robot.call("get_entry", entry_id=first.entry_id).entry.merged == 1
    assert not remember(robot, 1, outcome=Entry.OUTCOME_SUCCESS).merged
    stats = robot.call("get_stats")
    assert (stats.memory_size, stats.merged) == (2, 1)
    assert (stats.entries_remembered, stats.entries_merged) == (2, 1)


def test_an_approximate_index_answers_and_says_that_it_may_have_missed_some(
    start: Start, robot: Robot, tmp_path: Path
) -> None:
    """It says how hard each direction searches; a filter that few pass is answered exactly."""
    fill(tmp_path / "memory")
    node = begin(start, robot, index="pq_sq8", recall_target=0.9, build_threads=2)
    node.wait_for_log("built index pq_sq8")
    wait_until(lambda: robot.call("get_stats").index_kind == "pq_sq8", "its use")
    wanted = robot.call("get_entry", entry_id=7).entry
    response = robot.call(
        "retrieve", instruction=wanted.instruction, target=Query.TARGET_INSTRUCTIONS
    )
    assert response.result.matches[0].entry_id == 7
    assert not response.result.exact
    few = Filter(episode_ids=["first"])
    assert robot.call("retrieve", instruction="x", filter=few).result.exact
    stats = robot.call("get_stats")
    assert (stats.index_rows, stats.memory_size, stats.index_error) == (_ENTRIES, _ENTRIES, "")
    assert {d.source for d in stats.index_directions} == {"scene", "instruction"}
    assert all(0.5 < d.recall <= 1 and d.depth for d in stats.index_directions)


def fill(directory: Path) -> None:
    """Write a memory that is large enough for an approximate index."""
    encoder = DoubleEncoder()
    rng = np.random.default_rng(0)
    scenes = rng.standard_normal((_ENTRIES, encoder.dim)).astype(np.float32)
    scenes /= np.linalg.norm(scenes, axis=1, keepdims=True)
    entries = [
        NewEntry(f"task {n} {rng.integers(1 << 30)}", n, episode_id="first" if n < 9 else "")
        for n in range(1, _ENTRIES + 1)
    ]
    instructions = encoder.encode_instructions([entry.instruction for entry in entries])
    with Memory.open(directory, encoder.fingerprint, durable=False) as memory:
        memory.add(entries, scenes, instructions)
