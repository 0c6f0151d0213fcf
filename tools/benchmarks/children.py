"""Processes of their own: for memory that is counted, for a fresh start, and to be killed.

``python -m tools.benchmarks.children TASK SETTINGS [ARGUMENT...]`` prints its answer as one line of
JSON. What goes wrong natively in a store ends its process and not the benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tools.benchmarks.bench import Settings

ROOT: Final = Path(__file__).parents[2]
_MARK: Final = "benchmark answer: "


class ChildError(Exception):
    """A child ended without an answer; the text says why in one line."""


def ask_child(
    task: str, settings: Settings, *arguments: str, limit_sec: float | None = None
) -> dict[str, Any]:
    """Run a task in a process of its own.

    Args:
        task: A name in ``tasks.TASKS``.
        settings: Of the benchmark.
        arguments: Of the task.
        limit_sec: After which the child is killed.

    Raises:
        ChildError: If it does not answer.
    """
    try:
        done = subprocess.run(
            command(task, settings, *arguments),
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit_sec,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ChildError(f"no answer within {limit_sec:.0f} s") from None
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return answer
    said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    raise ChildError(said[0])


def command(task: str, settings: Settings, *arguments: str) -> list[str]:
    """The command line of a child."""
    module = [sys.executable, "-m", "tools.benchmarks.children"]
    return [*module, task, settings.to_json(), *arguments]


def environment() -> dict[str, str]:
    """The environment of a child: one thread for numpy, as for FAISS.

    Threads of OpenBLAS that spin take the cores from whatever is measured.
    """
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1"}


def main() -> None:
    """Do one task and print its answer."""
    from tools.benchmarks import tasks

    name, settings, *arguments = sys.argv[1:]
    answer = tasks.TASKS[name](Settings.from_json(settings), *arguments)
    print(_MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
