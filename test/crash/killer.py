"""Starts lives in other processes, kills them, and looks at what they left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla_retrieval.errors import MemoryFormatError
from vla_retrieval.memory import Memory

from ..memory.conftest import child_environment
from .book import (
    DIM,
    FINGERPRINT,
    Book,
    Step,
    embeddings_of,
    entry_of,
    options,
    state_of,
)

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


@dataclass
class Lived:
    """What one life said.

    Attributes:
        results: Of the steps that were acknowledged.
        begun: Whether one more was begun.
        points: That it passed, if it was not killed.
        status: How it ended.
    """

    results: list[Any] = field(default_factory=list)
    begun: bool = False
    points: list[str] = field(default_factory=list)
    status: int = 0


class Killer:
    """A process that forks one process per life."""

    def __init__(self) -> None:
        # One thread each, so that a fork copies no half-held lock of a thread pool.
        environment = {**child_environment(), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "test.crash.killed"], cwd=ROOT, text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def live(
        self,
        directory: Path,
        book: Book,
        life: list[Step],
        *,
        index: str = "exact",
        durable: bool = False,
        kill_at: int | None = None,
        kill_after_lines: int | None = None,
        snapshot_after: int = 10_000,
    ) -> Lived:
        """Let a life be lived until it ends or is killed.

        Args:
            directory: Of the memory.
            book: What it holds; says how large it may become.
            life: The steps.
            index: Kind.
            durable: Whether commits are fsynced.
            kill_at: Number of the point at which it kills itself.
            kill_after_lines: How many lines it says before it is killed from here.
            snapshot_after: Changes after which the memory's own thread writes a snapshot.
        """
        order = {
            "directory": str(directory), "life": life, "index": index, "durable": durable,
            "max_entries": book.max_entries, "kill_at": kill_at, "snapshot_after": snapshot_after,
            "fewest_to_fit": 2_000 if index == "exact" else 20,
            "settle": kill_after_lines is None,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = self._read("started")[0]
        # No other process can be meant by it. One that kills itself may be gone already.
        pidfd = None if kill_after_lines is None else os.pidfd_open(pid)
        lived = Lived()
        lines = 0
        while True:
            if pidfd is not None and lines == kill_after_lines:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            what, *rest = self._read()
            lines += 1
            if what == "will":
                lived.begun = True
            elif what == "did":
                lived.results.append(rest[0])
                lived.begun = False
            elif what == "passed":
                lived.points = rest[0]
            elif what == "ended":
                lived.status = rest[0]
                if pidfd is not None:
                    os.close(pidfd)
                return lived
            else:
                raise AssertionError(rest[0])

    def _read(self, expected: str = "") -> list[Any]:
        assert self._process.stdout is not None
        line = json.loads(self._process.stdout.readline())
        assert line[0] == (expected or line[0]), line
        return list(line[1:] if expected else line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with self._process:  # closes its output too
            self._process.wait()


def settled(directory: Path, book: Book, life: list[Step], lived: Lived, index: str) -> Book:
    """Check that a memory is as after the acknowledged steps, or after one more; return it."""
    for step, result in zip(life, lived.results, strict=False):
        book, expected = book.after(step)
        assert result == json.loads(json.dumps(expected)), step
    possible = [book]
    if lived.begun:
        possible.append(book.after(life[len(lived.results)])[0])
    if not (directory / "memory.sqlite3").exists():
        assert lived.results == []
        return book
    found = opened_state(directory, book.max_entries, index, read_only=True)
    assert found is None or found in possible, "a mix of old and new"
    again = opened_state(directory, book.max_entries, index, read_only=False)
    assert again in possible, "a mix of old and new"
    assert found is None or found == again
    return again


def opened_state(directory: Path, max_entries: int, index: str, *, read_only: bool) -> Book | None:
    """Return what a memory holds; None for one that was killed before it was made."""
    how = options(max_entries, index)
    try:
        opened = Memory.open(
            directory, FINGERPRINT, durable=False, options=how, read_only=read_only
        )
    except MemoryFormatError as error:
        if read_only and "holds no memory yet" in str(error):
            return None
        raise
    with opened as memory:
        return state_of(memory, max_entries)


def goes_on(directory: Path, book: Book, index: str) -> None:
    """Check that the next entry gets the next id, and nothing else changes."""
    step: Step = ["add", [[10**7, False]]]
    expected, (ids, merged, evicted) = book.after(step)
    scene, instruction = embeddings_of(10**7)
    how = options(book.max_entries, index)
    with Memory.open(directory, FINGERPRINT, durable=False, options=how) as memory:
        report = memory.add_with_report(
            [entry_of(10**7)], scene.reshape(1, DIM), instruction.reshape(1, DIM)
        )
        assert asdict(report) == {
            "entry_ids": tuple(ids), "merged": tuple(merged), "evicted": tuple(evicted),
        }  # fmt: skip
        assert state_of(memory, book.max_entries) == expected


def copied(directory: Path, to: Path) -> Path:
    """Return a fresh copy of a memory."""
    if to.exists():
        shutil.rmtree(to)
    if directory.exists():
        shutil.copytree(directory, to)
    return to
