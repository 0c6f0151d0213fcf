"""The scripts find their folder, and say what is wrong, whatever the shell has set."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NO_PYTHON = "/no/such/python"
SHELLS = [
    pytest.param(shell, marks=pytest.mark.skipif(not shutil.which(shell), reason="not installed"))
    for shell in ("bash", "zsh")
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the scripts, in which nothing is set up yet."""
    folder = tmp_path / "a check out"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    return folder


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """Return a folder that a CDPATH may name, with a folder scripts of its own."""
    (tmp_path / "decoy" / "scripts").mkdir(parents=True)
    return tmp_path / "decoy"


def set_up(checkout: Path) -> None:
    """Make what `scripts/setup` leaves where ROS 2 comes from wheels."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "share" / "ament_index").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").touch(0o755)


def failed_set_up(checkout: Path) -> str:
    """Set up where that has to fail before anything is installed; return what it says."""
    forbidden = checkout.parent / "forbidden"
    forbidden.mkdir()
    for name in ("apt-get", "pip"):
        (forbidden / name).write_text("#!/bin/sh\necho something was installed >&2\n")
        (forbidden / name).chmod(0o755)
    path = f"{forbidden}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if name != "ROS_DISTRO"}
    done = subprocess.run(
        ["scripts/setup"], cwd=checkout, env={**inherited, "PATH": path, "VLA_PYTHON": NO_PYTHON},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "something was installed" not in done.stderr
    assert not (checkout / ".venv").exists()
    return done.stderr


def sourced(
    shell: str, checkout: Path, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Source the environment in a shell, and print where it found itself."""
    line = f'{before}\n. scripts/env.sh && echo "found $VIRTUAL_ENV"'
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(
        [shell, "-c", line], cwd=checkout, env={**inherited, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("shell", SHELLS)
def test_the_environment_is_found_in_a_folder_with_spaces_whatever_cdpath_is(
    shell: str, checkout: Path, decoy: Path
) -> None:
    set_up(checkout)
    done = sourced(shell, checkout, before=f"set -u; CDPATH='{decoy}'")

    assert done.stdout == f"found {checkout / '.venv'}\n", done.stderr
    assert not done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_sourcing_again_comes_before_what_was_activated_meanwhile(
    shell: str, checkout: Path
) -> None:
    set_up(checkout)
    elsewhere = checkout.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "python").touch(0o755)
    again = f". scripts/env.sh; PATH='{elsewhere}':$PATH\n. scripts/env.sh; command -v python"

    assert sourced(shell, checkout, again).stdout.startswith(f"{checkout / '.venv/bin/python'}\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_an_environment_that_is_not_set_up_fails_and_names_the_next_step(
    shell: str, checkout: Path
) -> None:
    done = sourced(shell, checkout)

    assert done.returncode
    assert "found" not in done.stdout
    assert "call scripts/setup first" in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_wheels_are_not_mixed_with_a_ros_installation_that_is_sourced(
    shell: str, checkout: Path
) -> None:
    set_up(checkout)
    done = sourced(shell, checkout, ROS_DISTRO="jazzy")

    assert done.returncode
    assert "found" not in done.stdout
    assert "jazzy" in done.stderr


@pytest.mark.parametrize("name", ["setup", "test"])
def test_a_command_finds_its_folder_whatever_cdpath_is(
    name: str, checkout: Path, decoy: Path
) -> None:
    done = subprocess.run(
        [f"scripts/{name}", "--help"], cwd=checkout, env={**os.environ, "CDPATH": str(decoy)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert f"scripts/{name}" in done.stdout


@pytest.mark.parametrize("name", ["benchmark", "check", "demo", "make_demo_model", "make_font"])
def test_every_other_command_sets_cdpath_aside_in_the_same_way(name: str) -> None:
    text = (ROOT / "scripts" / name).read_text(encoding="utf-8")

    assert text.count("cd ") == text.count("CDPATH='' cd ")


def test_a_folder_below_which_no_executable_could_be_started_is_refused(checkout: Path) -> None:
    said = failed_set_up(checkout)

    assert "below a path with spaces" in said
    assert str(checkout) in said


def test_a_python_that_is_not_there_is_named_before_packages_are_asked_for(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "checkout" / "scripts")
    said = failed_set_up(tmp_path / "checkout")

    assert f"there is no Python at {NO_PYTHON}" in said
    assert "system packages" not in said
