"""Memories of the last format."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vla_retrieval.errors import MemoryFormatError, StorageError
from vla_retrieval.memory import upgrading
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.dropping import drop_damaged
from vla_retrieval.types import Entry, Filter, Modality, NewEntry, Probe

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

DATABASE = "memory.sqlite3"
COUNT = 6
SAID = [
    ((), {}),
    (("one",), {"key": "value"}),
    (
        ("z", "a", '"quoted"', "back\\slash", "new\nline"),
        {"b": "", "a": "\u0001", "\U0001f916": "杯"},
    ),
    (("\0",), {"nul": "a\0b"}),
    (("only",), {}),
    ((), {"only": "1"}),
]

TO_FORMAT_2 = """
CREATE TABLE tags (
    entry_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
    position INTEGER NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (entry_id, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE metadata (
    entry_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (entry_id, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE old_entries (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    instruction TEXT NOT NULL,
    stamp_ns INTEGER NOT NULL,
    frame_id TEXT NOT NULL,
    episode_id TEXT NOT NULL,
    outcome INTEGER NOT NULL,
    action_space TEXT,
    action_shape TEXT,
    action_values BLOB,
    pose_frame_id TEXT,
    pose_stamp_ns INTEGER,
    pose_x REAL, pose_y REAL, pose_z REAL,
    pose_qx REAL, pose_qy REAL, pose_qz REAL, pose_qw REAL,
    checksum INTEGER NOT NULL,
    pinned INTEGER NOT NULL,
    merged INTEGER NOT NULL
) STRICT;
ALTER TABLE entries DROP COLUMN tags;
ALTER TABLE entries DROP COLUMN metadata;
INSERT INTO old_entries SELECT * FROM entries;
DROP TABLE entries;
ALTER TABLE old_entries RENAME TO entries;
UPDATE sqlite_sequence SET seq = 20;
INSERT INTO counters VALUES ('sequence', 3);
PRAGMA user_version = 2;
"""


@pytest.fixture
def old(open_memory: OpenMemory, directory: Path) -> Path:
    """Return the directory of a closed memory as format 2 kept it."""
    entries = [
        NewEntry(f"do {n}", n, tags=tags, metadata=metadata)
        for n, (tags, metadata) in enumerate(SAID)
    ]
    with open_memory() as memory:
        memory.add(entries, unit_vectors(COUNT, DIM, 1), unit_vectors(COUNT, DIM, 2))
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        connection.executescript(TO_FORMAT_2)
        for entry_id, (tags, metadata) in enumerate(SAID, start=1):
            rows = [(entry_id, place, tag) for place, tag in enumerate(tags)]
            connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", rows)
            pairs = [(entry_id, *pair) for pair in metadata.items()]
            connection.executemany("INSERT INTO metadata VALUES (?, ?, ?)", pairs)
        connection.commit()
    return directory


def said(entry: Entry) -> tuple[object, object]:
    return entry.tags, entry.metadata


def test_one_that_is_opened_to_write_says_the_same_in_this_format(
    old: Path, open_memory: OpenMemory
) -> None:
    memory = open_memory()
    assert [said(entry) for entry in memory.get_many(range(1, COUNT + 1))] == SAID
    assert memory.entry_ids() == list(range(1, COUNT + 1))
    query = [Probe(Modality.SCENE, unit_vectors(COUNT, DIM, 1)[2])]
    found = memory.search(query, 9, filter=Filter(tags=("a",), metadata={"b": ""}))
    assert [c.entry_id for c in found.candidates] == [3]
    assert memory.add([NewEntry("new", 9)], *[unit_vectors(1, DIM, 5)] * 2) == [21]
    memory.close()
    with open_contents(old) as contents:
        assert check(contents).wrong == []
    with closing(sqlite3.connect(old / DATABASE)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert not tables & {"tags", "metadata"}
    assert open_memory().stats().entries == COUNT + 1


def test_one_that_is_only_to_be_read_is_refused_with_what_to_do(
    old: Path, open_memory: OpenMemory
) -> None:
    before = (old / DATABASE).read_bytes()
    with pytest.raises(MemoryFormatError, match=r"expected format 3, got format 2\. Open it once"):
        open_memory(read_only=True)
    assert (old / DATABASE).read_bytes() == before


def test_an_upgrade_that_is_cut_off_leaves_the_old_format(
    old: Path, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "metadata_text", full)
        with pytest.raises(StorageError, match="disk is full"):
            open_memory()
    with closing(sqlite3.connect(old / DATABASE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    memory = open_memory()
    assert [said(entry) for entry in memory.get_many(range(1, COUNT + 1))] == SAID


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tags SET tag = CAST(x'ff6f' AS TEXT) WHERE entry_id = 5",
        "UPDATE tags SET tag = x'ff' WHERE entry_id = 5",
        "UPDATE tags SET tag = 7 WHERE entry_id = 5",
        "UPDATE tags SET tag = NULL WHERE entry_id = 5",
        "INSERT INTO metadata VALUES (5, x'ff', x'fe')",
    ],
)
def test_a_damaged_label_costs_its_entry_and_not_the_memory(
    damage: str, old: Path, open_memory: OpenMemory
) -> None:
    with closing(sqlite3.connect(old / DATABASE)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        loose = "replace(replace(replace(sql, 'STRICT, ', ''), ' TEXT', ''), ' NOT NULL', '')"
        connection.execute(
            f"UPDATE sqlite_master SET sql = {loose} WHERE name IN ('tags', 'metadata')"
        )
        connection.commit()
    with closing(sqlite3.connect(old / DATABASE)) as connection:
        connection.execute(damage)
        connection.commit()
    with pytest.raises(MemoryFormatError, match="entry 5 differs from its checksum"):
        open_memory()
    with open_contents(old, write=True) as contents:
        assert list(drop_damaged(contents, check(contents)).entry_ids) == [5]
    memory = open_memory()
    assert memory.entry_ids() == [1, 2, 3, 4, 6]
    assert [said(entry) for entry in memory.get_many([1, 2, 3, 4, 6])] == SAID[:4] + SAID[5:]
