"""What the tools print: how far they are, where no terminal draws bars, and what went wrong."""

from __future__ import annotations

import pytest

from vla_retrieval.cli.output import as_option, progress_bars
from vla_retrieval.errors import InvalidInputError


def test_a_log_has_a_line_every_ten_seconds_of_what_takes_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    second = 0
    with progress_bars(lambda: float(second)) as progress:
        for second in range(25):
            progress("searching", second, 25)
    assert capsys.readouterr().err == "searching: 10 of 25\nsearching: 20 of 25\n"


def test_what_is_quick_is_not_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(lambda: 0.0) as progress:
        progress("searching", 0, 20)
        progress("searching", 20, 20)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("field", "usage", "said"),
    [
        ("query_fraction", "[--query-fraction F]", "--query-fraction: expected 1, got 2."),
        ("ks", "[--k K ...]", "--k: expected 1, got 2."),
        ("out", "[--output FILE]", "--output: expected 1, got 2."),
        ("out", "[--out FOLDER] [--output-dir X]", "--out: expected 1, got 2."),
        ("head", "[--head-dir X]", "head: expected 1, got 2."),
        ("head", "", "head: expected 1, got 2."),
    ],
)
def test_a_field_is_called_by_the_option_that_the_user_typed(
    field: str, usage: str, said: str
) -> None:
    assert as_option(InvalidInputError(field, "1", "2"), usage) == said
    assert as_option(ValueError("ks: no"), usage) == "ks: no"
