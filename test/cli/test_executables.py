"""An executable that lacks something says what, and what to do."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from vla_retrieval.cli import executables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a module `made_up_tool` that can be imported once it is written."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_up_tool", raising=False)
    return tmp_path / "made_up_tool.py"


def said() -> str:
    """Return what the tool says as it gives up; pytest catches the exit that would print it."""
    with pytest.raises(SystemExit) as stopped:
        executables.run("tool", "made_up_tool:main")
    assert isinstance(stopped.value.code, str)  # Python prints it to stderr and exits with 1
    return stopped.value.code


def test_an_executable_without_a_package_names_it_its_python_and_the_next_step(tool: Path) -> None:
    tool.write_text("import nowhere_to_be_found.part\n")

    text = said()

    assert text.startswith("tool: the Python module nowhere_to_be_found is not installed.")
    assert sys.executable in text
    assert "scripts/setup" in text


def test_what_is_imported_late_is_named_too(tool: Path) -> None:
    tool.write_text("def main():\n    import nowhere_to_be_found\n")

    assert "nowhere_to_be_found is not installed" in said()


@pytest.mark.parametrize(
    ("module", "step"),
    [
        ("rclpy", "/opt/ros/"),
        ("lifecycle_msgs", "/opt/ros/"),
        ("vla_retrieval_msgs", "colcon build --base-paths . vla_retrieval_msgs"),
    ],
)
def test_what_belongs_to_ros_or_to_the_workspace_has_a_next_step_of_its_own(
    tool: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    step: str,
) -> None:
    tool.write_text(f"import {module}\n")
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]

    text = said()

    assert module in text
    assert step in text


def test_a_module_that_this_package_itself_lacks_is_an_error_of_the_package(tool: Path) -> None:
    tool.write_text("import vla_retrieval.not_there\n")

    with pytest.raises(ModuleNotFoundError):
        executables.run("tool", "made_up_tool:main")


def test_every_executable_that_is_installed_leads_to_a_function_that_is_there() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    found = re.findall(r'"(\w+) = vla_retrieval\.cli\.executables:(\w+)"', setup)

    assert len(found) == setup.count(" = vla_retrieval.") > 0
    for name, attribute in found:
        start = getattr(executables, attribute)
        assert isinstance(start, partial)
        assert start.args[0] == name
        module, _, function = start.args[1].partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("code", [130, 0])
def test_a_ctrl_c_while_an_executable_is_imported_is_no_traceback(tool: Path, code: int) -> None:
    """In a process of its own: what of it is imported here may handle signals by now."""
    tool.write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    start = (
        f"from vla_retrieval.cli.executables import run; run('tool', 'made_up_tool:main', {code})"
    )

    done = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tool.parent), *sys.path])},
    )  # fmt: skip

    assert done.returncode == code
    assert done.stderr == ""
