"""The command that evaluates and compares: what is wrong in its options is wrong usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_retrieval.cli.evaluate import main


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k", "0"], "--k"),
        (["--scene-weight", "2"], "--scene-weight"),
        (["--query-fraction", "0"], "--query-fraction"),
        (["--alpha", "3"], "--alpha"),
        (["--gap-sec", "-1"], "--gap-sec"),
        (["--relevance", "foo"], "--relevance"),
        (["--engine", "cuda"], "--engine"),
    ],
)
def test_an_option_out_of_its_range_is_wrong_usage(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "bag"), "--out", str(tmp_path / "out"), *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gate", ["ndcg@10", "ndcg@10:-1", "ndcg@10:much"])
def test_a_misspelt_gate_is_wrong_usage_and_no_gate_that_failed(
    gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path), str(tmp_path), "--fail-if-worse", gate])
    assert ended.value.code == 2
    assert gate in capsys.readouterr().err


def test_one_result_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path)])
    assert ended.value.code == 2
    assert "two results or more" in capsys.readouterr().err


def test_a_bag_that_is_not_there_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "bag"), "--out", str(tmp_path / "out"), "--model", "double"])
    assert ended.value.code == 1
    assert "bag" in capsys.readouterr().err
