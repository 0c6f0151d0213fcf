"""Evaluating with a learned head: the same bag, the same embeddings, other numbers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from test.learned import turned_head, written
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.evaluation.splits import SplitOptions
from vla_retrieval.experiments.comparing import compare_folders
from vla_retrieval.experiments.folder import write_folder
from vla_retrieval.experiments.offline import Outcome, evaluate_bags
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.heads import HashHead, JointHead

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo"
ENCODER = DoubleEncoder()
SETTINGS = ExperimentSettings(
    split=SplitOptions(seed=1), relevance="labels", relevance_file=DEMO / "tasks.yaml", depth=20
)
HEADS = {
    "without": None,
    "identity": JointHead.identity(ENCODER.fingerprint),
    "turned": turned_head(ENCODER.fingerprint, 1),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Return evaluations without a head and with two, from one work folder."""
    work = tmp_path_factory.mktemp("work")
    return {
        name: evaluate_bags([DEMO / "bag"], ENCODER, SETTINGS, work, head=head)
        for name, head in HEADS.items()
    }


def test_what_was_embedded_serves_every_head(outcomes: dict[str, Outcome]) -> None:
    encoded = {
        name: outcome.evaluation.times.get("encode images (batch)")
        for name, outcome in outcomes.items()
    }
    assert encoded["without"] is not None
    assert encoded["identity"] is None
    assert encoded["turned"] is None


def test_a_head_that_changes_nothing_ranks_as_none_does(outcomes: dict[str, Outcome]) -> None:
    for direction in DIRECTIONS:
        one, other = (outcomes[name].ranked[direction].run for name in ("without", "identity"))
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_a_head_that_turns_the_modalities_apart_ranks_otherwise_across_them(
    outcomes: dict[str, Outcome],
) -> None:
    for direction, differs in (("instruction to scenes", True), ("scene to scenes", False)):
        one, other = (outcomes[name].ranked[direction].run for name in ("without", "turned"))
        assert np.allclose(one.scores, other.scores, atol=1e-6) is not differs


def test_the_hash_and_the_settings_say_which_head_it_was(outcomes: dict[str, Outcome]) -> None:
    assert len({outcome.evaluation.hash for outcome in outcomes.values()}) == len(HEADS)
    shown = {name: outcome.evaluation.settings["head"] for name, outcome in outcomes.items()}
    assert shown["without"] == "none"
    turned = HEADS["turned"]
    assert turned is not None
    assert shown["turned"] == turned.digest


def test_a_head_that_only_makes_codes_says_that_it_changes_no_ranking(
    outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    codes = HashHead.initial(ENCODER.fingerprint, 64, seed=0)
    found = evaluate_bags([DEMO / "bag"], ENCODER, SETTINGS, tmp_path, head=codes)
    one, other = (of.ranked["scene to scenes"].run for of in (outcomes["without"], found))
    np.testing.assert_array_equal(one.entry_ids, other.entry_ids)
    assert any("rankings are those without the head" in note for note in found.evaluation.notes)
    assert not any("rankings are those" in note for note in outcomes["turned"].evaluation.notes)


def test_the_same_head_gives_the_same_hash_in_another_work_folder(
    outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    again = evaluate_bags(
        [DEMO / "bag"], ENCODER, SETTINGS, tmp_path, head=turned_head(ENCODER.fingerprint, 1)
    )
    assert again.evaluation.hash == outcomes["turned"].evaluation.hash


def test_results_without_and_with_a_head_are_compared(
    outcomes: dict[str, Outcome], tmp_path: Path
) -> None:
    for name, outcome in outcomes.items():
        write_folder(outcome, tmp_path / name, name)
    folders = [tmp_path / name for name in outcomes]
    tables, _ = compare_folders(folders, ["hit@1"], [], tmp_path / "page.html")
    assert list(tables) == list(DIRECTIONS)
    assert str(outcomes["turned"].evaluation.settings["head"]) in (
        tmp_path / "page.html"
    ).read_text("utf-8")


def evaluate(*arguments: object, code: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vla_retrieval.cli.evaluate", DEMO / "bag", *arguments]
    done = subprocess.run(
        [*map(str, command), "--model", "double", "--relevance", f"labels:{DEMO / 'tasks.yaml'}",
         "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_command_takes_a_head_and_refuses_that_of_another_encoder(tmp_path: Path) -> None:
    head = turned_head(ENCODER.fingerprint, 1)
    file = written(head, tmp_path / "head.safetensors")
    said = evaluate("--head", file, "--out", tmp_path / "out", "--json", code=0).stdout
    assert head.digest in said
    other = replace(ENCODER.fingerprint, model="another model")
    foreign = written(turned_head(other, 1), tmp_path / "foreign.safetensors")
    said = evaluate("--head", foreign, "--out", tmp_path / "other", code=1).stderr
    assert "another model" in said
    assert str(ENCODER.fingerprint) in said
    assert not (tmp_path / "other").exists()
