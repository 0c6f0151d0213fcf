from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from test.evaluation import made_up
from vla_retrieval.evaluation.report.naming import spell, spell_interval
from vla_retrieval.evaluation.report.terminal import print_evaluation
from vla_retrieval.evaluation.results import Estimate, Evaluation, KnownResult

SMALL = made_up.small()


def printed(evaluation: Evaluation, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_evaluation(evaluation, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_number_of_the_summary_is_printed_with_its_interval() -> None:
    text = printed(SMALL)

    for result in SMALL.directions.values():
        for of in (*result.micro.values(), *result.macro.values()):
            assert spell(of.value) in text
            assert spell_interval(of.low, of.high) in text
    assert "hash: 0123abcd" in text


def test_parts_of_the_wall_time_are_printed_with_their_shares() -> None:
    evaluation = replace(SMALL, wall_sec={"encoding": 8.5, "searching": 0.5, "a [bold]rest": 1.0})

    text = printed(evaluation)

    assert "10.0 s: encoding 85%, searching 5%, a [bold]rest 10%" in text


def test_names_that_look_like_markup_are_printed_as_they_are() -> None:
    result = SMALL.directions["scene to scenes"]
    evaluation = replace(SMALL, directions={"[bold]x[/nothing]": result}, notes=("[red]note",))

    text = printed(evaluation)

    assert "[bold]x[/nothing]" in text
    assert "note: [red]note" in text


def test_the_known_part_is_printed() -> None:
    part = KnownResult(10, 1234, 0.25, *[Estimate(0.5, 0.4, 0.6)] * 3)

    text = printed(replace(SMALL, known={"pair": part}))

    assert "1\u202f234" in text
    assert text.count("0.500") >= 3


def test_the_agreement_of_a_live_run_with_the_offline_one_is_printed() -> None:
    live = made_up.evaluation().live
    assert live is not None

    text = printed(replace(SMALL, live=live))

    (line,) = (line for line in text.splitlines() if line.startswith("scene to scenes"))
    assert [cell.strip() for cell in line.split("  ") if cell.strip()][1:] == [
        "2\u202f790", "3\u202f000", "2\u202f790", "2\u202f788", "3.1e-05",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 140])
def test_five_directions_fit_into_eighty_columns(width: int) -> None:
    text = printed(made_up.evaluation(), width)

    assert max(map(len, text.splitlines())) <= width
    assert "0.4…" not in text
