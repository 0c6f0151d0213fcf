"""A check names everything that is damaged in entries and what belongs to them, nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_retrieval.errors import (
    MemoryFormatError,
    MemoryLockedError,
)
from vla_retrieval.memory import Memory
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.dropping import drop_damaged
from vla_retrieval.memory.findings import Part
from vla_retrieval.types import NewEntry

from .checked import COUNT, change, entry, jpeg, look, put_anything, wrong
from .conftest import DIM, OpenMemory
from .oracle import fingerprint, unit_vectors


def test_a_sound_memory_has_nothing_to_name(sound: Path) -> None:
    report = look(sound)
    assert (report.entries, report.thumbnails, report.findings) == (COUNT, COUNT, ())


def test_an_empty_memory_is_sound(open_memory: OpenMemory, directory: Path) -> None:
    open_memory().close()
    assert look(directory).wrong == []


ENTRY_COLUMNS = {
    "instruction": "'put'", "stamp_ns": "stamp_ns + 1", "frame_id": "'other'",
    "episode_id": "''", "outcome": "2", "action_space": "'abc'", "action_shape": "'[1, 3]'",
    "action_values": "zeroblob(12)", "pose_frame_id": "'odom'", "pose_stamp_ns": "7",
    "pose_x": "0.25", "pose_y": "-2", "pose_z": "0", "pose_qx": "1", "pose_qy": "1",
    "pose_qz": "0.8", "pose_qw": "0.6", "checksum": "checksum + 1",
}  # fmt: skip


class TestDamage:
    @pytest.mark.parametrize("column", ENTRY_COLUMNS)
    def test_in_any_column_of_an_entry_is_named(self, sound: Path, column: str) -> None:
        change(sound, f"UPDATE entries SET {column} = {ENTRY_COLUMNS[column]} WHERE entry_id = 2")
        assert wrong(sound) == {(Part.ENTRY, 2)}

    @pytest.mark.parametrize(
        "statement",
        [
            "tags = json_replace(tags, '$[1]', 'other')",
            "tags = json_array(tags ->> 1, tags ->> 0)",
            "tags = json_remove(tags, '$[0]')",
            "tags = json_insert(tags, '$[#]', 'new')",
            "tags = NULL",
            "tags = '\"first\"'",
            "tags = '{}'",
            "tags = '[1]'",
            "tags = '[[]]'",
            "tags = substr(tags, 2)",
            "metadata = json_replace(metadata, '$.key', 'x')",
            "metadata = replace(metadata, 'key', 'keys')",
            "metadata = json_remove(metadata, '$.other')",
            "metadata = NULL",
            "metadata = '[]'",
            "metadata = 'null'",
            "metadata = '{\"key\": 1}'",
        ],
    )
    def test_in_tags_or_metadata_is_named(self, sound: Path, statement: str) -> None:
        change(sound, f"UPDATE entries SET {statement} WHERE entry_id = 2")
        assert wrong(sound) == {(Part.ENTRY, 2)}

    @pytest.mark.parametrize(
        ("column", "part"),
        [
            ("scene_embedding", Part.SCENE), ("scene_checksum", Part.SCENE),
            ("instruction_embedding", Part.INSTRUCTION),
            ("instruction_checksum", Part.INSTRUCTION),
        ],
    )  # fmt: skip
    def test_in_an_embedding_is_named(self, sound: Path, column: str, part: Part) -> None:
        value = f"{column} + 1" if "checksum" in column else f"zeroblob({4 * DIM})"
        change(sound, f"UPDATE entries SET {column} = {value} WHERE entry_id = 2")
        assert wrong(sound) == {(part, 2)}

    @pytest.mark.parametrize("value", ["NULL", "'text'", "7", "1.5"])
    @pytest.mark.parametrize(
        ("table", "column", "part"),
        [
            ("entries", "scene_embedding", Part.SCENE),
            ("entries", "instruction_embedding", Part.INSTRUCTION),
            ("entries", "scene_checksum", Part.SCENE), ("thumbnails", "jpeg", Part.THUMBNAIL),
            ("thumbnails", "checksum", Part.THUMBNAIL), ("entries", "instruction", Part.ENTRY),
            ("entries", "stamp_ns", Part.ENTRY), ("entries", "action_values", Part.ENTRY),
        ],
    )  # fmt: skip
    def test_that_makes_a_value_of_another_type_is_named_and_the_rest_is_looked_at(
        self, sound: Path, table: str, column: str, value: str, part: Part
    ) -> None:
        put_anything(sound, table, f"UPDATE {table} SET {column} = {value} WHERE entry_id = 2")
        change(sound, "UPDATE entries SET checksum = 0 WHERE entry_id = 4")
        assert {(part, 2), (Part.ENTRY, 4)} <= wrong(sound)

    @pytest.mark.parametrize("value", ["NULL", "'text'", "7"])
    @pytest.mark.parametrize("column", ["scene", "instruction"])
    def test_that_makes_no_bytes_of_an_embedding_is_said_at_the_next_open(
        self, sound: Path, open_memory: OpenMemory, column: str, value: str
    ) -> None:
        (sound / "index.snapshot").unlink()
        put_anything(sound, "entries", f"UPDATE entries SET {column}_embedding = {value}")
        with pytest.raises(MemoryFormatError, match=rf"its {column} embedding is not of 8 numbers"):
            open_memory()

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE counters SET value = 'text'", "UPDATE counters SET value = NULL",
            "UPDATE counters SET name = 'giveo_out' WHERE name = 'given_out'",
            "INSERT OR REPLACE INTO counters VALUES ('sequence', -5)",
        ],
    )  # fmt: skip
    def test_of_a_counter_is_dropped_and_no_id_is_given_out_again(
        self, sound: Path, open_memory: OpenMemory, statement: str
    ) -> None:
        memory = open_memory()
        memory.remove([COUNT])
        memory.close()
        put_anything(sound, "counters", statement)
        with open_contents(sound, write=True, to_check=True) as contents:
            assert drop_damaged(contents, check(contents)).counters
        assert look(sound).wrong == []
        memory = open_memory()
        assert memory.entry_ids() == list(range(1, COUNT))
        new = memory.add([entry(9)], unit_vectors(1, DIM, 5), unit_vectors(1, DIM, 6))
        assert new[0] > COUNT

    @pytest.mark.parametrize("value", ["NULL", "'text'", "1.5"])
    def test_of_a_counter_that_is_no_number_is_named(
        self, sound: Path, open_memory: OpenMemory, value: str
    ) -> None:
        put_anything(sound, "counters", f"UPDATE counters SET value = {value}")
        assert (Part.COUNTERS, None) in wrong(sound)
        with pytest.raises(MemoryFormatError, match=r"counter '\w+' of this memory is damaged"):
            open_memory()

    def test_in_the_length_of_an_embedding_is_named(self, sound: Path) -> None:
        change(sound, "UPDATE entries SET scene_embedding = zeroblob(5) WHERE entry_id = 2")
        (finding,) = look(sound).wrong
        assert str(finding) == "entry 2, scene embedding: expected 32 bytes for 8 numbers, got 5"

    @pytest.mark.parametrize("column", ["jpeg = zeroblob(99)", "checksum = checksum + 1"])
    def test_in_a_thumbnail_is_named(self, sound: Path, column: str) -> None:
        change(sound, f"UPDATE thumbnails SET {column} WHERE entry_id = 2")
        assert wrong(sound) == {(Part.THUMBNAIL, 2)}

    def test_of_text_that_is_no_unicode_is_named_beside_sound_neighbours(self, sound: Path) -> None:
        change(sound, "UPDATE entries SET instruction = CAST(x'ff' AS TEXT) WHERE entry_id = 2")
        change(sound, "UPDATE entries SET metadata = CAST(x'80' AS TEXT) WHERE entry_id = 4")
        assert wrong(sound) == {(Part.ENTRY, 2), (Part.ENTRY, 4)}

    @pytest.mark.parametrize("column", ["instruction", "tags"])
    def test_of_text_that_is_no_unicode_says_at_the_next_open_what_to_do(
        self, sound: Path, open_memory: OpenMemory, column: str
    ) -> None:
        (sound / "index.snapshot").unlink()
        change(sound, f"UPDATE entries SET {column} = CAST(x'ff' AS TEXT) WHERE entry_id = 2")
        with pytest.raises(MemoryFormatError, match=rf"{column}.*memory check.*--drop-damaged"):
            open_memory()
        with open_contents(sound, write=True) as contents:
            drop_damaged(contents, check(contents))
        assert open_memory().entry_ids() == [1, 3, 4, 5]

    def test_of_several_kinds_is_named_at_once(self, sound: Path) -> None:
        change(
            sound,
            "UPDATE entries SET stamp_ns = 0 WHERE entry_id = 1",
            "UPDATE entries SET scene_checksum = 0 WHERE entry_id = 2",
            "UPDATE thumbnails SET checksum = 0 WHERE entry_id = 3",
            "UPDATE entries SET instruction_checksum = 0 WHERE entry_id = 4",
        )
        assert wrong(sound) == {
            (Part.ENTRY, 1), (Part.SCENE, 2), (Part.THUMBNAIL, 3), (Part.INSTRUCTION, 4),
        }  # fmt: skip

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE entries SET pinned = 2 WHERE entry_id = 2",
            "UPDATE entries SET merged = -1 WHERE entry_id = 2",
            "INSERT INTO usage VALUES (2, -1)",
        ],
    )
    def test_of_an_impossible_count_is_named(self, sound: Path, statement: str) -> None:
        change(sound, statement)
        assert wrong(sound) == {(Part.ENTRY, 2)}

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO counters VALUES ('sequence', -5)",
            "INSERT INTO counters VALUES ('sequencf', 1)",
            "INSERT INTO counters VALUES (CAST(x'f3657175656e6365' AS TEXT), 1)",
        ],
    )
    def test_of_what_the_memory_counts_is_named(self, sound: Path, statement: str) -> None:
        change(sound, statement)
        assert wrong(sound) == {(Part.COUNTERS, None)}


class TestRowsOfNoEntry:
    @pytest.mark.parametrize("table", ["thumbnails", "usage"])
    def test_are_named_with_their_table(self, sound: Path, table: str) -> None:
        values = {"usage": "99, 1", "thumbnails": "99, x'', 0"}
        change(sound, f"INSERT INTO {table} VALUES ({values[table]})")
        (finding,) = look(sound).wrong
        assert (finding.part, finding.entry_id, finding.table) == (Part.ORPHAN, 99, table)


class TestThumbnails:
    @pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n", jpeg(1)[:-40]])
    def test_one_that_does_not_decode_is_named(
        self, open_memory: OpenMemory, directory: Path, content: bytes
    ) -> None:
        vectors = unit_vectors(1, DIM, 1)
        open_memory().add([NewEntry("do", 1, thumbnail=content)], vectors, vectors)
        open_memory().close()
        assert wrong(directory) == {(Part.THUMBNAIL, 1)}

    def test_an_entry_may_have_none(self, open_memory: OpenMemory, directory: Path) -> None:
        vectors = unit_vectors(1, DIM, 1)
        open_memory().add([NewEntry("do", 1)], vectors, vectors)
        open_memory().close()
        report = look(directory)
        assert (report.entries, report.thumbnails, report.wrong) == (1, 0, [])


class TestTheLock:
    def test_a_memory_in_use_is_not_checked(self, sound: Path, open_memory: OpenMemory) -> None:
        open_memory()
        with pytest.raises(MemoryLockedError, match=f"in use by process {os.getpid()} "):
            look(sound)

    def test_a_memory_that_others_read_is_checked_and_not_changed(
        self, sound: Path, opened_to_read: Callable[[], Memory]
    ) -> None:
        opened_to_read()
        assert look(sound).wrong == []
        with pytest.raises(MemoryLockedError), open_contents(sound, write=True):
            pass


@pytest.fixture
def opened_to_read(directory: Path, open_memory: OpenMemory) -> Callable[[], Memory]:
    return lambda: open_memory(fingerprint=fingerprint(DIM), read_only=True)


def test_a_check_that_may_remove_keeps_other_programs_off(sound: Path) -> None:
    """Who closes a file that SQLite has open, in the same process, gives its locks away."""
    other = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "connection.execute('BEGIN IMMEDIATE')"
    )
    with open_contents(sound, write=True, to_check=True) as contents:
        check(contents)
        done = subprocess.run(
            [sys.executable, "-c", other, sound / "memory.sqlite3"], capture_output=True, text=True
        )
    assert "database is locked" in done.stderr
