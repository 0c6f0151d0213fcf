"""What launch arguments mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros_arguments import parameter_file


def test_a_parameter_file_is_found_below_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "robot.yaml").touch()

    assert parameter_file("~/robot.yaml") == str(tmp_path / "robot.yaml")


def test_a_parameter_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=f"params_file: .*no file at {tmp_path}/robott"):
        parameter_file(str(tmp_path / "robott.yaml"))
