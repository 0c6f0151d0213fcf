"""The help of ``retrieval_node``, and what it refuses before it starts."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from vla_retrieval.ros.parameters import SPECS
from vla_retrieval.ros.usage import read_command_line


def test_the_help_has_every_parameter_with_its_description(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_command_line(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for name, spec in SPECS.items():
        assert f"{name} (" in text
        assert spec.text in words
    assert max(map(len, text.splitlines())) <= 100
    assert "--ros-args --params-file" in words


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["k:=3"], "got k:=3"),
        (["--ros-args", "-p", "k:=3", "--", "model:=x"], "got model:=x"),
        (["--memory-dir", "/data"], "got --memory-dir /data"),
        (["--ros-args", "-p", "k"], "'-p k'"),
        (["--ros-args", "--params-file", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--ros-args", "--bogus"], "--bogus"),
    ],
)
def test_what_the_node_would_ignore_is_refused_with_the_way_to_say_it(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_command_line(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "/project/" not in error


def test_ros_arguments_pass() -> None:
    read_command_line(["--ros-args", "-p", "k:=3", "-r", "image:=/camera/image_raw"])
    read_command_line([])
