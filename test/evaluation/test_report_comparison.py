from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from rich.console import Console

from test.evaluation import made_up, pages
from vla_retrieval.evaluation.comparing import Difference
from vla_retrieval.evaluation.report.comparison_page import (
    finding,
    render_comparison,
    write_comparison_page,
)
from vla_retrieval.evaluation.report.terminal import comparison_table
from vla_retrieval.evaluation.results import Estimate

COMPARISON = made_up.comparison()
SMALL = made_up.small()


def row(value: float, p: float) -> Difference:
    return Difference("b", "mrr", 0.5, 0.5 + value, Estimate(value, value, value), p, p)


@pytest.mark.parametrize(
    ("value", "p", "found"),
    [(0.1, 0.01, "better"), (-0.1, 0.01, "worse"), (0.1, 0.05, "same"), (0.0, 0.01, "same"),
     (math.nan, math.nan, "same")],
)  # fmt: skip
def test_a_difference_is_called_one_only_below_the_level(
    value: float, p: float, found: str
) -> None:
    assert finding(row(value, p)) == found


@pytest.fixture(scope="module")
def root() -> Element:
    other = replace(SMALL, hash="beef", settings={"seed": "1", made_up.ATTACK: "x"})
    return pages.parse(
        render_comparison({"scene to scenes": COMPARISON}, {"clip": SMALL, "头_二 <b>": other})
    )


def test_the_page_has_exactly_the_numbers_of_the_comparison(root: Element) -> None:
    table = next(one for one in root.iter("table") if "comparison" in one.get("class", ""))
    found = [[pages.number(cell.get("value")) for cell in line.iter("data")]
             for line in table.iter("tr")][1:]  # fmt: skip

    assert found == [
        [of.difference.value, of.baseline_value, of.value, of.p, of.p_corrected]
        for of in COMPARISON.differences
    ]


def test_findings_are_words_and_not_only_colours(root: Element) -> None:
    cells = [cell for cell in root.iter("td") if "nowrap" in cell.get("class", "")]

    words = {cell.get("class"): pages.text_of(cell) for cell in cells}
    assert words == {"nowrap better": "▲ better", "nowrap worse": "▼ worse",
                     "nowrap same": "– not told apart"}  # fmt: skip


def test_only_settings_that_differ_are_shown_and_names_stay_text(root: Element) -> None:
    table = list(root.iter("table"))[-1]
    lines = [[pages.text_of(cell) for cell in line] for line in table.iter("tr")]

    assert lines == [["setting", "clip", "头_二 <b>"], ["hash", "0123abcd", "beef"],
                     ["seed", "0", "1"], [made_up.ATTACK, "–", "x"]]  # fmt: skip
    assert pages.addresses(root) == []


def test_what_a_run_lacks_is_said(root: Element) -> None:
    assert "头_二 <b> lacks 4 of them, which count as 0" in pages.text_of(root)


def test_each_evaluation_has_a_column_of_values(root: Element) -> None:
    values = pages.summary(root, "values-1-table")

    of = SMALL.directions["scene to scenes"].micro["recall@5"]
    assert values["recall@5"] == [(of.value, of.low, of.high)] * 2


def test_differences_that_are_no_numbers_have_a_row_without_a_drawing() -> None:
    comparison = replace(COMPARISON, differences=(row(math.nan, math.nan), row(0.0, 1.0)))

    root = pages.parse(render_comparison({"a": comparison}))

    assert len(list(root.iter("tr"))) == 3
    assert not list(root.iter("svg"))


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_comparison_page({"a": COMPARISON}, tmp_path / "comparison.html")

    text = (tmp_path / "comparison.html").read_text("utf-8")
    assert text == render_comparison({"a": COMPARISON})


def test_the_terminal_says_the_same() -> None:
    console = Console(width=120, file=io.StringIO())

    console.print(comparison_table(COMPARISON, "scene to scenes"))

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "scene to scenes: against clip, 9\u202f940 queries" in text
    assert text.count("头_二 <b>") == len(COMPARISON.differences)
    assert all(word in text for word in ("▲ better", "▼ worse", "not told apart"))


def test_names_of_runs_and_metrics_are_whole_in_eighty_columns() -> None:
    console = Console(width=80, file=io.StringIO())
    named = replace(
        COMPARISON,
        differences=tuple(
            replace(of, run=name, metric="recall@10")
            for of, name in zip(COMPARISON.differences, ("kitchen_joint", "kitchen_metric"),
                                strict=False)
        ),
    )  # fmt: skip

    console.print(comparison_table(named))

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(word in text for word in ("kitchen_joint", "kitchen_metric", "Recall@10"))
    assert "…" not in text
