"""The demonstration runs from its command to its picture."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vla_retrieval.memory import Memory

pytestmark = pytest.mark.usefixtures("domain")
ASKED = ("pick up the cup on the table", "拿起桌子上的杯子", "find something to drink from")


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vla_retrieval.cli.demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_the_demo_plays_asks_prints_and_draws(tmp_path: Path) -> None:
    done = run_demo("--rate", "6", "--output-dir", str(tmp_path), "--ask", ASKED[-1])
    log = (tmp_path / "node.log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    for question in ASKED:
        assert f"instruction → scenes: {question}" in done.stdout
    assert re.search(r"image published to matches received: median \d+ ms", done.stdout)
    assert "Traceback" not in log

    with Memory.open(tmp_path / "demo_memory", None) as memory:
        stored = memory.stats().entries
        instructions = [memory.get(n).instruction for n in range(1, stored + 1)]
    assert f"{stored} pairs remembered" in done.stdout.replace("\n", " ")
    assert any(text.isascii() for text in instructions)
    assert not all(text.isascii() for text in instructions)

    sheet = np.asarray(Image.open(tmp_path / "contact_sheet.png"))
    assert sheet.shape[0] > 4 * 150
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_a_demo_that_cannot_start_its_node_says_why(tmp_path: Path) -> None:
    done = run_demo("--output-dir", str(tmp_path), "--model", "ViT-B-23")
    assert done.returncode == 1
    assert "ViT-B-32" in done.stdout.replace("\n", " ")


def test_a_demo_without_a_bag_names_it(tmp_path: Path) -> None:
    done = run_demo("--output-dir", str(tmp_path), "--bag", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "a rosbag2 directory" in done.stdout.replace("\n", " ")
    assert "Traceback" not in done.stderr
