"""What is asked and stored is checked where it is made: a wrong type is named, not guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import Memory
from vla_retrieval.types import (
    CameraPose,
    Filter,
    Fingerprint,
    Nearby,
    NewEntry,
    Outcome,
    Query,
    Target,
)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target": "scenes"}, "target: expected one of Target.SCENES, Target.INSTRUCTIONS, "),
        ({"target": 0}, "target: expected one of Target.SCENES"),
        ({"target": None}, "target: expected one of Target.SCENES"),
        ({"k": 2.5}, "k: expected a whole number from 1 on, got 2.5"),
        ({"k": 0}, "k: expected a whole number from 1 on, got 0"),
        ({"scene_weight": "0.3"}, r"scene_weight: expected a number in \[0, 1\], got '0.3'"),
        ({"scene_weight": float("nan")}, r"scene_weight: expected a number in \[0, 1\], got nan"),
        ({"diversity": 2}, r"diversity: expected a number in \[0, 1\], got 2"),
        ({"min_score": "high"}, "min_score: expected a number, got 'high'"),
        ({"filter": {"tags": ["x"]}}, "filter: expected a Filter, got {'tags'"),
        ({"instruction": 3}, "instruction: expected text, got 3"),
    ],
)
def test_a_query_with_a_field_of_another_type_or_range_is_refused(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Query(**{"instruction": "cup", **fields})


def test_numbers_of_numpy_are_numbers() -> None:
    query = Query(instruction="cup", k=np.int64(3), scene_weight=np.float32(0.5))
    assert (query.k, query.scene_weight, query.target) == (3, 0.5, Target.SCENES)
    entry = NewEntry("cup", np.int64(5))
    assert type(entry.stamp_ns) is int


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"instruction": 5}, "instruction: expected text, got 5"),
        ({"stamp_ns": 1.5}, "stamp: expected whole nanoseconds, got 1.5"),
        ({"stamp_ns": "now"}, "stamp: expected whole nanoseconds, got 'now'"),
        ({"outcome": "success"}, "outcome: expected one of Outcome.UNKNOWN, .*got 'success'"),
        ({"outcome": 1}, "outcome: expected one of Outcome.UNKNOWN"),
        ({"tags": "kit"}, "tags: expected several labels, got 'kit'"),
    ],
)
def test_an_entry_with_a_field_of_another_type_is_refused(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        NewEntry(**{"instruction": "cup", "stamp_ns": 1, **fields})


@pytest.mark.parametrize("field", ["tags", "episode_ids", "frame_ids"])
def test_a_filter_does_not_take_a_text_for_its_letters(field: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"filter\.{field}: expected several"):
        Filter(**{field: "kitchen"})


def test_a_filter_takes_outcomes_and_not_their_names() -> None:
    assert Filter(outcomes=(Outcome.SUCCESS,)).outcomes == (Outcome.SUCCESS,)
    with pytest.raises(InvalidInputError, match=r"filter\.outcomes: expected one of Outcome"):
        Filter(outcomes=("success",))


@pytest.mark.parametrize("similarity", ["negative_l2", "foo", None])
def test_a_memory_is_not_opened_with_what_is_no_similarity(tmp_path: Path, similarity: Any) -> None:
    """Its name would be shown, and something else computed."""
    with pytest.raises(InvalidInputError, match=r"similarity: expected one of Similarity\.COSINE"):
        Memory.open(tmp_path / "memory", Fingerprint("m", "w", "p", 8), similarity)
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize(
    ("position", "orientation", "said"),
    [
        (
            (1.0, 2.0),
            (0.0, 0.0, 0.0, 1.0),
            r"camera_pose\.pose\.position: expected 3 numbers, got 2",
        ),
        ((1.0, 2.0, 3.0), (0.0, 0.0, 1.0), r"pose\.orientation: expected 4 numbers, got 3 numbers"),
    ],
)
def test_a_pose_of_more_or_fewer_numbers_is_refused(
    position: Any, orientation: Any, said: str
) -> None:
    """Stored, it would be found out only when the memory is read again."""
    with pytest.raises(InvalidInputError, match=said):
        CameraPose("map", 1, position, orientation)


def test_a_ball_around_a_position_of_two_numbers_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"filter\.near: expected 3 numbers, got 2"):
        Nearby((1.0, 2.0), 1.0)  # type: ignore[arg-type]
