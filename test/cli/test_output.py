"""How far a tool is, where no terminal draws bars."""

from __future__ import annotations

import pytest

from vla_retrieval.cli.output import progress_bars


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
