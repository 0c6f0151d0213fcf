"""A process that lives lives until it is killed: at a point that it is told, or from outside.

It reads orders from its input, one JSON object a line, and lives each in a fork of its own, which
starts at once because everything is imported already. What it says is JSON, one list a line:
``["started", pid]``, then ``["will", step]`` before each step and ``["did", step's result]`` after
it, and in the end ``["ended", exit status]``; whoever was not killed says ``["passed", points]``
before that.

The points are put in from here; the memory knows nothing of them.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from test.crash.book import FINGERPRINT, Step, embeddings_of, entry_of, options
from vla_retrieval.memory import Memory, building, codes, database, entries, maintenance, snapshot
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.live import LiveIndex

WATCHED = ("BEGIN IMMEDIATE", "INSERT", "UPDATE", "DELETE", "COMMIT", "VACUUM", "CREATE")
WATCHED_PRAGMAS = ("PRAGMA wal_checkpoint", "PRAGMA journal_mode", "PRAGMA user_version =")


class Points:
    """Counts the points that the main thread passes, and kills the process at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at = kill_at
        self.passed: list[str] = []

    def __call__(self, label: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if len(self.passed) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        self.passed.append(label)


point = Points(None)


class Connection(sqlite3.Connection):
    """Stops before and after each statement that writes, and each row of one."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        words = " ".join(sql.split()[:3])
        watched = sql.startswith((*WATCHED, *WATCHED_PRAGMAS))
        if watched:
            point(f"before {words}")
        cursor = super().execute(sql, values)
        if watched:
            point(f"after {words}")
        return cursor

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> sqlite3.Cursor:  # type: ignore[override]
        cursor = self.cursor()
        for row in rows:
            cursor = self.execute(sql, row)
        return cursor


class HalfWritten:
    """A file that stops in the middle of each write, with that much on disk."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def tell(self) -> int:
        return int(self._file.tell())

    def write(self, content: Any) -> None:
        half = len(content) // 2
        self._file.write(content[:half])
        self._file.flush()
        point("in the middle of writing the snapshot")
        self._file.write(content[half:])


def between(owner: Any, name: str, label: str) -> None:
    """Stop before and after each call of a function."""
    original = getattr(owner, name)

    def stopping(*arguments: Any, **named: Any) -> Any:
        point(f"before {label}")
        result = original(*arguments, **named)
        point(f"after {label}")
        return result

    setattr(owner, name, stopping)


def put_points_in() -> None:
    connect, changing = sqlite3.connect, LiveIndex.changing
    write, portions = snapshot.Frozen._write, entries.read_portions
    database.sqlite3.connect = lambda *a, **n: connect(*a, **n, factory=Connection)  # type: ignore[assignment]

    @contextmanager
    def stopping(self: LiveIndex, sequence: int, changes: int) -> Iterator[Index]:
        point("after the commit, before the index changes")
        with changing(self, sequence, changes) as index:
            yield index
            point("in the index")
        point("after the index changed")

    def read_portions(*arguments: Any, **named: Any) -> Iterator[entries.Portion]:
        for portion in portions(*arguments, **named):
            point("while the index is filled from the database")
            yield portion

    LiveIndex.changing = stopping  # type: ignore[method-assign]
    snapshot.Frozen._write = lambda self, file: write(self, HalfWritten(file))  # type: ignore[method-assign]
    entries.read_portions = read_portions
    between(LiveIndex, "added", "an addition waits for the index")
    between(Index, "add", "the index follows")
    between(snapshot.Frozen, "write", "the snapshot is written, with its marks committed")
    between(snapshot, "sync", "the fsync of the directory")
    between(os, "fsync", "an fsync")
    between(Path, "replace", "the rename")
    between(building, "catch_up", "catching up")
    between(database.Database, "close", "the database is closed")


def say(*words: Any) -> None:
    """Tell the test, at once, in one write."""
    os.write(1, (json.dumps(words) + "\n").encode())


class Life:
    """One memory, from step to step."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.memory = self.open()

    def open(self) -> Memory:
        return Memory.open(
            Path(self.order["directory"]), FINGERPRINT, durable=self.order["durable"],
            options=options(self.order["max_entries"], self.order["index"]),
        )  # fmt: skip

    def take(self, step: Step) -> Any:
        what, *arguments = step
        if what == "add":
            batch = arguments[0]
            halves = zip(*(embeddings_of(serial) for serial, _ in batch), strict=True)
            report = self.memory.add_with_report(
                [entry_of(serial, pinned=pinned) for serial, pinned in batch],
                *(np.array(half) for half in halves),
            )
            return [report.entry_ids, report.merged, report.evicted]
        if what == "remove":
            self.memory.remove(arguments[0])
        elif what == "pin":
            self.memory.pin(arguments[0], pinned=arguments[1])
        elif what == "snapshot":
            self.memory.write_snapshot()
        elif what == "compact":
            self.memory.compact()
        elif what == "reopen":
            self.memory.close()
            self.memory = self.open()
        return None

    def live(self) -> None:
        for step in self.order["life"]:
            say("will", step)
            result = self.take(step)
            if self.order["settle"]:  # so that each run passes the same points
                self.memory.wait_until_idle()
            point(f"before {step[0]} is acknowledged")
            say("did", result)
        self.memory.close()


def live(order: dict[str, Any]) -> None:
    say("started", os.getpid())
    point.kill_at = order["kill_at"]
    building.FEWEST_TO_FIT = order["fewest_to_fit"]
    maintenance._BEHIND_AT_LEAST = order["snapshot_after"]
    maintenance._BEHIND_AT_CLOSE = min(order["snapshot_after"], maintenance._BEHIND_AT_CLOSE)
    put_points_in()
    Life(order).live()
    say("passed", point.passed)


def main() -> None:
    assert codes.faiss
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                live(json.loads(line))
                status = 0
            except BaseException:
                say("failed", traceback.format_exc())
            finally:
                os._exit(status)
        say("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
