"""What the tests of checks share: a memory, what is found in it, and a way to damage it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from vla_retrieval.memory import Memory
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.findings import Part, Report
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Action, CameraPose, NewEntry, Outcome

from .conftest import DIM
from .oracle import unit_vectors

COUNT = 5
Found = set[tuple[Part, int | None]]


def jpeg(seed: int) -> bytes:
    image = np.random.default_rng(seed).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    return make_thumbnail(image, 32)


def entry(n: int) -> NewEntry:
    return NewEntry(
        f"拿起 {n}", n + 10, "camera", f"episode {n}", Outcome.SUCCESS,
        Action("xyz", (3,), np.arange(3, dtype=np.float32) + np.float32(n)),
        CameraPose("map", n, (0.5, n, 2.0), (0.0, 0.0, 0.6, 0.8)),
        ("first", f"tag {n}"), {"key": f"value {n}", "other": ""}, jpeg(n),
    )  # fmt: skip


def fill(memory: Memory, count: int = COUNT) -> Memory:
    entries = [entry(n) for n in range(1, count + 1)]
    memory.add(entries, unit_vectors(count, DIM, 1), unit_vectors(count, DIM, 2))
    memory.write_snapshot()
    return memory


def look(directory: Path) -> Report:
    with open_contents(directory) as contents:
        return check(contents)


def wrong(directory: Path) -> Found:
    return {(finding.part, finding.entry_id) for finding in look(directory).wrong}


def change(directory: Path, *statements: str) -> None:
    """Change the database behind the memory's back."""
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def put_anything(directory: Path, table: str, statement: str) -> None:
    """Change a table as a flipped bit can: past the types that SQLite keeps to."""
    loose = "replace(replace(sql, 'STRICT', ''), ' NOT NULL', '')"
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,))
        kept = sql.fetchone()[0].replace("'", "''")
    for said, change_it in ((loose, statement), (f"'{kept}'", "PRAGMA user_version")):
        change(
            directory, "PRAGMA writable_schema = ON",
            f"UPDATE sqlite_master SET sql = {said} WHERE name = '{table}'",
        )  # fmt: skip
        change(directory, change_it)
