"""What launch arguments mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros_arguments import check_number, parameter_file


def test_a_parameter_file_is_found_below_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "robot.yaml").touch()

    assert parameter_file("~/robot.yaml") == str(tmp_path / "robot.yaml")


def test_a_parameter_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=f"params_file: .*no file at {tmp_path}/robott"):
        parameter_file(str(tmp_path / "robott.yaml"))


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [(int, "abc", "a whole number"), (int, "2.5", "a whole number"), (float, "often", "a number")],
)
def test_an_argument_that_is_no_number_is_named(kind: type, given: str, expected: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"k: expected {expected}, got '{given}'"):
        check_number("k", given, kind)


@pytest.mark.parametrize(("kind", "given"), [(int, "-3"), (float, "1e3"), (str, "x"), (bool, "no")])
def test_what_can_be_converted_passes(kind: type, given: str) -> None:
    check_number("k", given, kind)
