"""A check names everything that is damaged, nothing else, and what is dropped is just that."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import (
    MemoryFormatError,
    MemoryLockedError,
    RetrievalError,
    StorageError,
)
from vla_retrieval.memory import Memory, MemoryOptions, snapshot
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.dropping import drop_damaged
from vla_retrieval.memory.findings import Part, Report
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Action, CameraPose, NewEntry, Outcome, Similarity

from .conftest import DIM, OpenMemory
from .oracle import fingerprint, unit_vectors

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


@pytest.fixture
def sound(open_memory: OpenMemory, directory: Path) -> Path:
    """Return the directory of a closed memory with entries 1 to 5 and a snapshot."""
    fill(open_memory()).close()
    return directory


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


def test_a_sound_memory_has_nothing_to_name(sound: Path) -> None:
    report = look(sound)
    assert (report.entries, report.thumbnails, report.findings) == (COUNT, COUNT, ())


def test_an_empty_memory_is_sound(open_memory: OpenMemory, directory: Path) -> None:
    open_memory().close()
    assert look(directory).wrong == []


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
            ("scene", Part.SCENE), ("scene_checksum", Part.SCENE),
            ("instruction", Part.INSTRUCTION), ("instruction_checksum", Part.INSTRUCTION),
        ],
    )  # fmt: skip
    def test_in_an_embedding_is_named(self, sound: Path, column: str, part: Part) -> None:
        value = f"{column} + 1" if "checksum" in column else f"zeroblob({4 * DIM})"
        change(sound, f"UPDATE embeddings SET {column} = {value} WHERE entry_id = 2")
        assert wrong(sound) == {(part, 2)}

    @pytest.mark.parametrize("value", ["NULL", "'text'", "7", "1.5"])
    @pytest.mark.parametrize(
        ("table", "column", "part"),
        [
            ("embeddings", "scene", Part.SCENE), ("embeddings", "instruction", Part.INSTRUCTION),
            ("embeddings", "scene_checksum", Part.SCENE), ("thumbnails", "jpeg", Part.THUMBNAIL),
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
        put_anything(sound, "embeddings", f"UPDATE embeddings SET {column} = {value}")
        with pytest.raises(MemoryFormatError, match=rf"its {column} embedding is not of 8 numbers"):
            open_memory()

    @pytest.mark.parametrize("value", ["NULL", "'text'", "1.5"])
    def test_of_a_counter_that_is_no_number_is_named(
        self, sound: Path, open_memory: OpenMemory, value: str
    ) -> None:
        put_anything(sound, "counters", f"UPDATE counters SET value = {value}")
        assert (Part.COUNTERS, None) in wrong(sound)
        with pytest.raises(MemoryFormatError, match=r"counter '\w+' of this memory is damaged"):
            open_memory()

    def test_in_the_length_of_an_embedding_is_named(self, sound: Path) -> None:
        change(sound, "UPDATE embeddings SET scene = zeroblob(5) WHERE entry_id = 2")
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
            "UPDATE embeddings SET scene_checksum = 0 WHERE entry_id = 2",
            "UPDATE thumbnails SET checksum = 0 WHERE entry_id = 3",
            "DELETE FROM embeddings WHERE entry_id = 4",
        )
        assert wrong(sound) == {
            (Part.ENTRY, 1), (Part.SCENE, 2), (Part.THUMBNAIL, 3), (Part.ENTRY, 4),
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


class TestMissingRows:
    def test_an_entry_without_embeddings_is_named(self, sound: Path) -> None:
        change(sound, "DELETE FROM embeddings WHERE entry_id = 2")
        (finding,) = look(sound).wrong
        assert str(finding) == "entry 2, entry: has no embeddings"

    @pytest.mark.parametrize("table", ["embeddings", "thumbnails", "usage"])
    def test_rows_of_no_entry_are_named_with_their_table(self, sound: Path, table: str) -> None:
        values = {
            "usage": "99, 1", "embeddings": "99, x'', 0, 0, x''", "thumbnails": "99, x'', 0",
        }  # fmt: skip
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


class TestTheSnapshot:
    def test_a_missing_one_is_a_note(self, sound: Path) -> None:
        (sound / "index.snapshot").unlink()
        report = look(sound)
        assert report.wrong == []
        assert "there is none" in str(report.notes)

    def test_one_that_is_behind_is_a_note(self, sound: Path, open_memory: OpenMemory) -> None:
        memory = open_memory()
        memory.add([entry(6)], unit_vectors(1, DIM, 3), unit_vectors(1, DIM, 4))
        memory.remove([2])
        memory.close()
        report = look(sound)
        assert report.wrong == []
        assert "2 changes behind" in str(report.notes)

    def test_one_of_another_version_is_a_note(
        self, open_memory: OpenMemory, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = snapshot.FORMAT
        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "FORMAT", now - 1)
            fill(open_memory()).close()
        report = look(directory)
        assert report.wrong == []
        assert f"of format {now - 1}, and this version writes {now}" in str(report.notes)
        assert open_memory().stats().index.opened_from.startswith("the database")

    def test_one_of_another_history_is_a_note(self, sound: Path) -> None:
        change(sound, "UPDATE counters SET value = value + 1 WHERE name LIKE 'snapshot%'")
        report = look(sound)
        assert report.wrong == []
        assert "another history" in str(report.notes)

    @pytest.mark.parametrize("similarity", list(Similarity))
    def test_it_is_read_for_whatever_similarity_it_was_written(
        self, open_memory: OpenMemory, directory: Path, similarity: Similarity
    ) -> None:
        fill(open_memory(similarity=similarity)).close()
        assert look(directory).findings == ()

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.9999])
    def test_a_flipped_bit_anywhere_is_named(self, sound: Path, share: float) -> None:
        path = sound / "index.snapshot"
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 16
        path.write_bytes(content)
        assert wrong(sound) == {(Part.SNAPSHOT, None)}

    @pytest.mark.parametrize("kept", [0, 10, 1000, -1])
    def test_one_that_is_cut_off_is_named(self, sound: Path, kept: int) -> None:
        path = sound / "index.snapshot"
        os.truncate(path, kept if kept >= 0 else path.stat().st_size - 1)
        assert wrong(sound) == {(Part.SNAPSHOT, None)}

    def test_entries_that_only_one_side_has_are_named(self, sound: Path) -> None:
        change(sound, *(f"DELETE FROM {t} WHERE entry_id = 2" for t in TABLES))
        assert wrong(sound) == {(Part.SNAPSHOT, 2)}

    @pytest.mark.parametrize("kind", ["exact", "pq", "pq_sq8", "hash"])
    def test_a_vector_that_is_not_that_of_its_embedding_is_named(
        self, open_memory: OpenMemory, directory: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vla_retrieval.memory.building.FEWEST_TO_FIT", 1)
        memory = open_memory(options=MemoryOptions(index=kind))
        count = 300
        memory.add(
            [NewEntry(f"do {n}", n) for n in range(count)],
            unit_vectors(count, DIM, 1), unit_vectors(count, DIM, 2),
        )  # fmt: skip
        assert memory.wait_until_idle(60)
        memory.write_snapshot()
        assert memory.stats().index.kind == kind
        memory.close()
        assert look(directory).findings == ()
        swap_embeddings(directory, 17, 250)
        assert wrong(directory) == {(Part.SNAPSHOT, 17), (Part.SNAPSHOT, 250)}

    def test_a_field_that_filters_ask_for_and_that_differs_is_named(self, sound: Path) -> None:
        swap_contents(sound, 2, 4)
        found = look(sound).wrong
        assert {f.entry_id for f in found} == {2, 4}
        assert {str(f).split("its ")[1].split(" is")[0] for f in found} == {
            "stamp", "position", "episode, frame, outcome, tags or metadata",
        }  # fmt: skip


TABLES = ("entries", "embeddings", "thumbnails", "usage")


def swap_embeddings(directory: Path, one: int, other: int) -> None:
    """Exchange the scenes of two entries, checksums and all."""
    columns = "scene, scene_checksum"
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        rows = [
            connection.execute(f"SELECT {columns} FROM embeddings WHERE entry_id = ?", (i,))
            .fetchone() for i in (one, other)
        ]  # fmt: skip
        for i, row in zip((other, one), rows, strict=True):
            connection.execute(
                "UPDATE embeddings SET scene = ?, scene_checksum = ? WHERE entry_id = ?", (*row, i)
            )
        connection.commit()


def swap_contents(directory: Path, one: int, other: int) -> None:
    """Exchange the rows of two entries, checksums and all."""
    moves = [(one, -1), (other, one), (-1, other)]
    change(
        directory,
        *(f"UPDATE entries SET entry_id = {new} WHERE entry_id = {old}" for old, new in moves),
    )


def flip_an_id(directory: Path, entry_id: int) -> None:
    """Flip the bit of 8 in the id of an entry, where a leaf of SQLite's tree has it."""
    path = directory / "memory.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'entries'"
        page = (connection.execute(query).fetchone()[0] - 1) * 4096
    content = bytearray(path.read_bytes())
    pointer = page + 8 + 2 * (entry_id - 1)
    cell = page + int.from_bytes(content[pointer : pointer + 2], "big")
    cell += 2 if content[cell] & 128 else 1  # behind the size of the row
    assert content[cell] == entry_id
    content[cell] ^= 8
    path.write_bytes(content)


class TestTheFile:
    def test_a_page_of_rubbish_is_named_and_the_rest_is_looked_at(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        fill(open_memory(), 600).close()
        path = directory / "memory.sqlite3"
        content = bytearray(path.read_bytes())
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 4096] = bytes(range(256)) * 16
        path.write_bytes(content)
        report = look(directory)
        assert report.has_wrong(Part.DATABASE) or report.damaged_ids or report.damaged_thumbnail_ids
        assert report.entries > 500

    def test_a_row_out_of_its_order_is_named_and_the_rest_is_looked_at(self, sound: Path) -> None:
        """It is still there for who reads all rows, and not for who asks for it."""
        change(sound, "UPDATE thumbnails SET checksum = 0 WHERE entry_id = 4")
        flip_an_id(sound, 2)
        named = {(Part.DATABASE, None), (Part.ENTRY, 10), (Part.THUMBNAIL, 4)}
        assert named <= wrong(sound)

    def test_two_tables_on_one_page_are_named(self, sound: Path) -> None:
        change(
            sound,
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_master SET rootpage = 2 WHERE name = 'usage'",
        )
        assert Part.DATABASE in {part for part, _ in wrong(sound)}

    def test_what_is_damaged_beyond_entries_is_not_dropped(self, sound: Path) -> None:
        change(
            sound,
            "UPDATE entries SET stamp_ns = 0 WHERE entry_id = 2",
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_master SET rootpage = 2 WHERE name = 'usage'",
        )
        with (
            open_contents(sound, write=True) as contents,
            pytest.raises(StorageError, match=r"nothing was removed.*\.recover"),
        ):
            drop_damaged(contents, check(contents))

    @pytest.mark.parametrize(
        ("definition", "damaged"),
        [
            (b" scene_checksum INT", b" scenu_checksum INT"),
            (b" checksum INTEGER", b" checksue INTEGER"), (b"pinned INT", b"pinjed INT"),
            (b"ON DELETE CASCADE", b"ON UPDATE CASCADE"),
        ],
    )  # fmt: skip
    def test_a_damaged_definition_of_a_table_is_named_and_no_entry_is_dropped_for_it(
        self, sound: Path, definition: bytes, damaged: bytes
    ) -> None:
        before = everything(sound)
        path = sound / "memory.sqlite3"
        content = path.read_bytes()
        path.write_bytes(content.replace(definition, damaged))
        with open_contents(sound, write=True) as contents:
            report = check(contents)
            assert "the table" in str(report.wrong[0])
            with pytest.raises(StorageError, match="nothing was removed"):
                drop_damaged(contents, report)
        path.write_bytes(path.read_bytes().replace(damaged, definition))
        assert everything(sound) == before

    @pytest.mark.parametrize("seed", range(8))
    def test_a_flipped_bit_is_found_or_changes_nothing(
        self, sound: Path, seed: int, tmp_path: Path
    ) -> None:
        before = everything(sound)
        rng = np.random.default_rng(seed)
        content = (sound / "memory.sqlite3").read_bytes()
        for _ in range(20):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(sound, copy)
            flipped = bytearray(content)
            flipped[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
            (copy / "memory.sqlite3").write_bytes(flipped)
            try:
                found = look(copy).wrong
            except RetrievalError:
                continue  # SQLite, or the format, said so
            if not found:
                assert everything(copy) == before


def everything(directory: Path) -> list[object]:
    """Return all that a memory holds and that has a checksum."""
    with open_contents(directory) as contents:
        return [
            (e.entry_id, e.instruction, e.stamp_ns, e.frame_id, e.episode_id, e.outcome,
             e.action and e.action.values.tolist(), e.camera_pose, e.tags, e.metadata,
             e.thumbnail, scene.tobytes(), text.tobytes())
            for portion in contents.portions()
            for e, scene, text in zip(
                portion.entries, portion.scenes, portion.instructions, strict=True
            )
        ]  # fmt: skip


def damage_one_of_each(directory: Path) -> None:
    change(
        directory,
        "UPDATE entries SET stamp_ns = 0 WHERE entry_id = 1",
        "UPDATE embeddings SET instruction_checksum = 0 WHERE entry_id = 2",
        "UPDATE thumbnails SET checksum = 0 WHERE entry_id = 3",
        "INSERT INTO usage VALUES (77, 1)",
    )


class TestDropping:
    def test_removes_what_is_damaged_and_nothing_else(
        self, sound: Path, open_memory: OpenMemory
    ) -> None:
        before = {str(row).split(",")[0]: row for row in everything(sound)}
        damage_one_of_each(sound)
        with open_contents(sound, write=True) as contents:
            dropped = drop_damaged(contents, check(contents))
            assert check(contents).wrong == []
        assert (list(dropped.entry_ids), list(dropped.thumbnail_ids)) == ([1, 2], [3])
        assert (list(dropped.orphan_tables), dropped.snapshot) == (["usage"], False)
        memory = open_memory()
        assert memory.entry_ids() == [3, 4, 5]
        assert memory.get(3, thumbnail=True).thumbnail == b""
        memory.close()
        after = everything(sound)
        assert after[1:] == [before["(4"], before["(5"]]

    def test_leaves_a_memory_that_opens_and_never_gives_out_the_ids_again(
        self, sound: Path, open_memory: OpenMemory
    ) -> None:
        change(sound, "UPDATE embeddings SET scene_checksum = 0 WHERE entry_id = 5")
        with open_contents(sound, write=True) as contents:
            drop_damaged(contents, check(contents))
        memory = open_memory()
        assert memory.entry_ids() == [1, 2, 3, 4]
        assert memory.add([entry(6)], unit_vectors(1, DIM, 3), unit_vectors(1, DIM, 4)) == [6]

    def test_removes_a_damaged_snapshot_alone(self, sound: Path, open_memory: OpenMemory) -> None:
        os.truncate(sound / "index.snapshot", 100)
        with open_contents(sound, write=True) as contents:
            dropped = drop_damaged(contents, check(contents))
        assert dropped.snapshot
        assert not dropped.entry_ids
        assert open_memory().entry_ids() == [1, 2, 3, 4, 5]

    def test_of_a_sound_memory_changes_nothing(self, sound: Path) -> None:
        before = everything(sound)
        with open_contents(sound, write=True) as contents:
            assert drop_damaged(contents, check(contents)).nothing
        assert everything(sound) == before


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
