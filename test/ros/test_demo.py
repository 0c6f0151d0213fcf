"""What the demonstration says of a bag that is not the shipped one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the demonstration is a node's client")

from rich.console import Console

from vla_retrieval.cli.demo import main
from vla_retrieval.errors import RetrievalError
from vla_retrieval.ros import demo
from vla_retrieval_msgs.msg import Match
from vla_retrieval_msgs.srv import Retrieve


class NothingKnown:
    """Stands for a client of a node with an empty memory."""

    def call(self, name: str, **fields: Any) -> Retrieve.Response:
        return Retrieve.Response(success=True)


def test_a_bag_of_which_nothing_was_remembered_is_an_error_in_words() -> None:
    with pytest.raises(RetrievalError, match="nothing was remembered: expected images on"):
        demo._ask(Console(file=io.StringIO()), NothingKnown(), [])  # type: ignore[arg-type]


def test_an_instruction_with_brackets_is_shown_as_it_was_said() -> None:
    answer = Retrieve.Response()
    answer.result.matches = [Match(rank=1, instruction="the [red] cup [/x]")]
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(demo._table("asked: the [big] one [/y]", answer))
    shown = console.export_text()
    assert "the [red] cup [/x]" in shown
    assert "asked: the [big] one [/y]" in shown


def test_an_output_folder_below_the_home_is_found_without_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ros2 launch vla_retrieval demo.launch.py output_dir:=~/pictures``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    given: list[Path] = []
    monkeypatch.setattr(demo, "run_demo", lambda bag, rate, folder, *_: given.append(folder) or 0)

    assert main(["--output-dir", "~/pictures"]) == 0
    assert given == [tmp_path / "pictures"]
