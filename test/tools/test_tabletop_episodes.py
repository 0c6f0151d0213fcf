"""Episodes of tasks: each scene shows what one task asks for, and no other one does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tools.tabletop.episodes import (
    OTHERS,
    TASKS,
    make_episodes,
    sample_task_scene,
    sample_task_text,
)
from tools.tabletop.language import Instruction, ObjectPhrase, satisfies
from tools.tabletop.vocabulary import ALL_PAIRS


def test_half_of_all_pairs_are_tasks_and_each_kind_and_colour_is_in_both_halves() -> None:
    assert sorted(TASKS + OTHERS) == sorted(ALL_PAIRS)
    assert len(TASKS) == len(OTHERS)
    for part in (0, 1):
        everything = {pair[part] for pair in ALL_PAIRS}
        assert {pair[part] for pair in TASKS} == everything
        assert {pair[part] for pair in OTHERS} == everything


@pytest.mark.parametrize("task", TASKS[::7], ids=" ".join)
def test_a_scene_fits_its_own_task_and_no_other(task: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    wanted = {pair: Instruction("pick", ObjectPhrase(pair[1], pair[0])) for pair in TASKS}
    for _ in range(30):
        scene = sample_task_scene(rng, task)

        assert [pair for pair in TASKS if satisfies(wanted[pair], scene)] == [task]


def test_instructions_of_a_task_come_in_many_words_and_both_languages() -> None:
    rng = np.random.default_rng(0)
    texts = {sample_task_text(rng, ("red", "cup")) for _ in range(60)}

    assert len(texts) > 30
    assert any("红" in text for text in texts)
    assert any("red" in text for text in texts)
    assert not any("blue" in text or "bowl" in text for text in texts)


@pytest.mark.slow
def test_episodes_are_rendered_once_and_read_again(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    made = make_episodes(tmp_path, "elsewhere", per_task=1, frames=2, seed=0, processes=1)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = make_episodes(tmp_path, "elsewhere", per_task=1, frames=2, seed=0, processes=1)

    assert made.scenes.shape == (2 * len(TASKS), 384)
    assert len(set(made.episodes)) == len(set(made.tasks)) == len(TASKS)
    np.testing.assert_allclose(np.linalg.norm(made.scenes, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(made.scenes, again.scenes)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
