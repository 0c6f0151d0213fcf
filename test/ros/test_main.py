"""The process goes on when one of its callbacks fails, and ends when it is told to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import TransitionCallbackReturn

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros import main
from vla_retrieval.ros.main import spin


class Node:
    """Has a context that is there until it is not, and notes defects."""

    def __init__(self) -> None:
        self.context = self
        self.there = True
        self.defects: list[Exception] = []

    def ok(self) -> bool:
        return self.there

    def note_defect(self, error: Exception) -> None:
        self.defects.append(error)


class Spinner:
    """Ends each time it is spun as it was told to."""

    def __init__(self, ends: Iterator[Exception | None]) -> None:
        self._ends = ends

    def spin(self) -> None:
        end = next(self._ends)
        if end is not None:
            raise end


def spun(node: Any, *ends: Exception | None) -> None:
    """Spin until it returns; it has to use all ends."""
    left = iter(ends)
    spin(Spinner(left), node)  # type: ignore[arg-type]
    assert next(left, "none left") == "none left"


def test_a_callback_that_fails_is_noted_and_the_others_go_on() -> None:
    node = Node()
    defects = [ZeroDivisionError("one"), KeyError("two")]
    spun(node, *defects, ExternalShutdownException())
    assert node.defects == defects


def test_a_spinner_that_was_stopped_ends_it() -> None:
    node = Node()
    spun(node, ZeroDivisionError("one"), None)
    assert len(node.defects) == 1


def test_what_fails_when_the_context_is_gone_is_no_defect() -> None:
    node = Node()
    node.there = False
    spun(node, RuntimeError("the context is invalid"))
    assert not node.defects


@pytest.mark.parametrize(("context", "code"), [("there", 1), ("gone", 0)])
def test_a_start_that_a_signal_cut_off_is_no_failure(
    context: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MagicMock()
    node.context.ok.return_value = context == "there"
    node.trigger_configure.return_value = TransitionCallbackReturn.ERROR
    monkeypatch.setattr(main, "RetrievalNode", lambda: node)
    monkeypatch.setattr(main, "new_spinner", MagicMock())
    monkeypatch.setattr(main, "bridge_logging", lambda logger: None)
    assert main._run(MagicMock()) == code
    node.close.assert_called_once_with()


def test_a_path_that_cannot_be_one_is_refused_as_other_values_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise InvalidInputError("memory_dir", "a directory", "''")

    monkeypatch.setattr(main, "RetrievalNode", refuse)
    assert main._run(MagicMock()) == 1


def test_a_goodbye_that_never_ends_with_pythons_lock_held_is_cut_short() -> None:
    program = (
        "import ctypes, gc\n"
        "from vla_retrieval.ros import main\n"
        "main.main, main._LONGEST_GOODBYE_SEC = lambda: 0, 0.2\n"
        "gc.collect = ctypes.PyDLL(None).pause\n"  # PyDLL, unlike CDLL, keeps the lock
        "main.executable()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Timeout" in done.stderr
