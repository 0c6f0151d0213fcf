"""Memories of the last format."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import MemoryFormatError, MemoryMismatchError, StorageError
from vla_retrieval.memory import rows, upgrading
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.dropping import drop_damaged
from vla_retrieval.memory.schema import FORMAT
from vla_retrieval.types import Filter, Modality, NewEntry, Probe

from .checked import fill, jpeg, look, put_anything
from .conftest import DIM, OpenMemory
from .oracle import fingerprint, unit_vectors

DATABASE = "memory.sqlite3"
COUNT = 6
SCENES, INSTRUCTIONS = unit_vectors(COUNT, DIM, 1), unit_vectors(COUNT, DIM, 2)

TO_FORMAT_3 = """
CREATE TABLE embeddings (
    entry_id INTEGER PRIMARY KEY REFERENCES entries ON DELETE CASCADE,
    scene BLOB NOT NULL,
    scene_checksum INTEGER NOT NULL,
    instruction_checksum INTEGER NOT NULL,
    instruction BLOB NOT NULL
) STRICT;
INSERT INTO embeddings
    SELECT entry_id, scene_embedding, scene_checksum, instruction_checksum, instruction_embedding
    FROM entries;
ALTER TABLE entries DROP COLUMN scene_checksum;
ALTER TABLE entries DROP COLUMN instruction_checksum;
ALTER TABLE entries DROP COLUMN scene_embedding;
ALTER TABLE entries DROP COLUMN instruction_embedding;
PRAGMA user_version = 3;
"""


@pytest.fixture
def old(open_memory: OpenMemory, directory: Path) -> Path:
    """Return the directory of a closed memory as format 3 kept it; its last entry was removed."""
    new = [
        NewEntry(f"do {n}", n, tags=(f"tag {n}",), metadata={"n": str(n)}, thumbnail=jpeg(n))
        for n in range(COUNT)
    ]
    with open_memory() as memory:
        memory.add(new, SCENES, INSTRUCTIONS)
        memory.add(new[:1], SCENES[:1], INSTRUCTIONS[:1])
        memory.remove([COUNT + 1])
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        connection.executescript(TO_FORMAT_3)
    return directory


def test_one_that_is_opened_to_write_holds_the_same_in_this_format(
    old: Path, open_memory: OpenMemory
) -> None:
    memory = open_memory()
    got = memory.get_many(range(1, COUNT + 1), thumbnails=True)
    assert [(e.instruction, e.stamp_ns, e.tags, e.metadata, e.thumbnail) for e in got] == [
        (f"do {n}", n, (f"tag {n}",), {"n": str(n)}, jpeg(n)) for n in range(COUNT)
    ]
    kept = [memory.embeddings(entry_id) for entry_id in range(1, COUNT + 1)]
    assert np.array_equal([scene for scene, _ in kept], SCENES)
    assert np.array_equal([instruction for _, instruction in kept], INSTRUCTIONS)
    query = [Probe(Modality.SCENE, SCENES[2])]
    found = memory.search(query, 9, filter=Filter(tags=("tag 2",), metadata={"n": "2"}))
    assert [c.entry_id for c in found.candidates] == [3]
    assert memory.add([NewEntry("new", 9)], *[unit_vectors(1, DIM, 5)] * 2) == [COUNT + 2]
    memory.close()
    with open_contents(old) as contents:
        assert check(contents).wrong == []
    with closing(sqlite3.connect(old / DATABASE)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert not tables & {"embeddings", "new_entries"}
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert open_memory().stats().entries == COUNT + 1


def test_an_upgrade_leaves_no_long_log(old: Path, open_memory: OpenMemory) -> None:
    """Whoever adds first would copy all that was rewritten."""
    open_memory()
    assert (old / f"{DATABASE}-wal").stat().st_size == 0


def test_one_that_is_only_to_be_read_is_refused_with_what_to_do(
    old: Path, open_memory: OpenMemory
) -> None:
    before = (old / DATABASE).read_bytes()
    with pytest.raises(MemoryFormatError, match=r"expected format \d, got format 3\. Open it once"):
        open_memory(read_only=True)
    assert (old / DATABASE).read_bytes() == before


def test_an_upgrade_that_is_cut_off_leaves_the_old_format(
    old: Path, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "_value", full)
        with pytest.raises(StorageError, match="disk is full"):
            open_memory()
    with closing(sqlite3.connect(old / DATABASE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert np.array_equal(open_memory().embeddings(2)[0], SCENES[1])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE embeddings SET scene = NULL WHERE entry_id = 5",
        "UPDATE embeddings SET scene = 'text' WHERE entry_id = 5",
        "UPDATE embeddings SET scene = 7 WHERE entry_id = 5",
        "UPDATE embeddings SET scene = zeroblob(5) WHERE entry_id = 5",
        "UPDATE embeddings SET instruction_checksum = NULL WHERE entry_id = 5",
        "UPDATE embeddings SET instruction_checksum = 'text' WHERE entry_id = 5",
        "UPDATE embeddings SET instruction_checksum = 1.5 WHERE entry_id = 5",
        "UPDATE embeddings SET instruction_checksum = 7 WHERE entry_id = 5",
        "DELETE FROM embeddings WHERE entry_id = 5",
        "UPDATE entries SET stamp_ns = 7 WHERE entry_id = 5",
        "UPDATE entries SET stamp_ns = 'text' WHERE entry_id = 5",
        "UPDATE entries SET stamp_ns = NULL WHERE entry_id = 5",
        "UPDATE entries SET instruction = x'ff' WHERE entry_id = 5",
        "UPDATE entries SET checksum = NULL WHERE entry_id = 5",
    ],
)
def test_what_is_damaged_costs_its_entry_and_not_the_memory(
    damage: str, old: Path, open_memory: OpenMemory
) -> None:
    put_anything(old, "entries" if " entries " in damage else "embeddings", damage)
    with pytest.raises(MemoryFormatError, match=r"entry 5|instruction"):
        open_memory()
    with open_contents(old, write=True) as contents:
        assert list(drop_damaged(contents, check(contents)).entry_ids) == [5]
    memory = open_memory()
    assert memory.entry_ids() == [1, 2, 3, 4, 6]
    assert np.array_equal(memory.embeddings(6)[1], INSTRUCTIONS[5])


def test_an_entry_of_format_4_is_sound_though_its_checksum_does_not_cover_its_id(
    open_memory: OpenMemory, directory: Path
) -> None:
    memory = fill(open_memory())
    known = [memory.get(entry_id) for entry_id in (1, 2)]
    memory.close()
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        for entry_id in (1, 2):
            query = f"SELECT {rows.COLUMNS} FROM entries WHERE entry_id = ?"
            row = connection.execute(query, (entry_id,)).fetchone()
            entry = known[entry_id - 1]
            checksum = rows._checksum(row[1:18], entry.tags, entry.metadata)
            connection.execute(
                "UPDATE entries SET checksum = ? WHERE entry_id = ?", (checksum, entry_id)
            )
        connection.execute("DELETE FROM counters WHERE name = 'fingerprint'")
        connection.execute("PRAGMA user_version = 4")
        connection.commit()
    assert look(directory).wrong == []
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)  # it was only read
    with pytest.raises(MemoryMismatchError):
        open_memory(fingerprint=fingerprint(DIM + 1))
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)  # who was refused
    memory = open_memory()
    again = [memory.get(entry_id) for entry_id in (1, 2)]
    assert [(e.instruction, e.tags) for e in again] == [(e.instruction, e.tags) for e in known]
    memory.close()
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    assert look(directory).wrong == []
