from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.evaluation import made_up
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.report.csv_files import (
    instructions_csv,
    summary_csv,
    write_instructions_csv,
    write_summary_csv,
)
from vla_retrieval.evaluation.results import DirectionResult, InstructionRow

SMALL = made_up.small()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def number(text: str) -> float:
    return float(text) if text else math.nan


def test_there_is_one_row_for_each_direction_metric_k_and_average() -> None:
    rows = rows_of(summary_csv(SMALL))

    expected = [
        (direction, metric, average, repr(of))
        for direction, result in SMALL.directions.items()
        for average, estimates in (("micro", result.micro), ("macro", result.macro))
        for metric, of in estimates.items()
    ]
    found = [
        (
            row["direction"], row["metric"] + (f"@{row['k']}" if row["k"] else ""), row["average"],
            f"Estimate(value={number(row['value'])!r}, low={number(row['low'])!r},"
            f" high={number(row['high'])!r})",
        )
        for row in rows
    ]  # fmt: skip
    assert found == expected
    assert {row["queries"] for row in rows if row["direction"] == "pair"} == {"0"}


def test_a_number_that_does_not_exist_is_empty() -> None:
    empty = [row for row in rows_of(summary_csv(SMALL)) if row["direction"] == "pair"]

    assert empty
    assert {row[name] for row in empty for name in ("value", "low", "high")} == {""}


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), st.floats())
def test_any_instruction_and_number_comes_back(instruction: str, value: float) -> None:
    row = InstructionRow(instruction, 3, value, {"mrr": value})
    result = DirectionResult(3, 0, {}, {}, (row,))

    (found,) = rows_of(instructions_csv(replace(SMALL, directions={"pair": result})))

    assert found["instruction"] == instruction
    assert repr(number(found["mrr"])) == repr(number(found["relevant"])) == repr(value)


def test_a_metric_that_a_row_lacks_is_empty() -> None:
    rows = (InstructionRow("a", 1, 1.0, {"mrr": 1.0}), InstructionRow("b", 1, 1.0, {"hit@1": 0.0}))
    evaluation = replace(SMALL, directions={"pair": DirectionResult(2, 0, {}, {}, rows)})

    assert [(row["mrr"], row["hit@1"]) for row in rows_of(instructions_csv(evaluation))] == [
        ("1.0", ""),
        ("", "0.0"),
    ]


def test_files_are_written_whole_and_excel_knows_that_instructions_are_utf8(
    tmp_path: Path,
) -> None:
    write_summary_csv(SMALL, tmp_path / "summary.csv")
    write_instructions_csv(SMALL, tmp_path / "instructions.csv")

    assert (tmp_path / "summary.csv").read_bytes() == summary_csv(SMALL).encode()
    content = (tmp_path / "instructions.csv").read_bytes()
    assert content == instructions_csv(SMALL).encode("utf-8-sig")
    assert "拿起桌子上的红色杯子" in content.decode("utf-8-sig")
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        write_summary_csv(SMALL, tmp_path / "summary.csv")
