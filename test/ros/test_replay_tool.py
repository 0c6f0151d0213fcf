"""The command that replays: what a node answered is kept, whatever becomes of the rest."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vla_retrieval.cli.replay_evaluation import main
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.experiments.offline import evaluate_bags
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.ros import replay_evaluation

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture
def _signals() -> Iterator[None]:
    """Put back how SIGTERM is taken, which the command changes."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_signals")
def test_what_a_node_answered_is_written_also_where_the_offline_evaluation_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(
        bags: Sequence[Path], namespace: str, fingerprint: object, settings: ExperimentSettings,
        *more: Any,
    ) -> Outcome:  # fmt: skip
        return evaluate_bags(bags, DoubleEncoder(), settings, tmp_path / "node")

    monkeypatch.setattr(replay_evaluation, "evaluate_node", answers)
    out, work = tmp_path / "live", tmp_path / "work"
    work.write_text("no folder")
    with pytest.raises(SystemExit) as ended:
        main([
            str(DEMO / "bag"), "--out", str(out), "--work", str(work), "--model", "double",
            "--seed", "1", "--depth", "10", "--relevance", f"labels:{DEMO / 'tasks.yaml'}",
        ])  # fmt: skip
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"what the node answered is in {out}" in said
    assert f"cannot use {work}" in said
    assert read_json(out / "evaluation.json").directions["pair"].queries > 0


@pytest.mark.usefixtures("_signals")
def test_what_a_node_has_to_read_is_printed_without_a_place_for_a_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(DEMO / "bag"), "--show-image-transport"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "compressed\n"


def test_without_a_place_for_the_report_it_is_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(DEMO / "bag")])
    assert ended.value.code == 2
    assert "--out" in capsys.readouterr().err
