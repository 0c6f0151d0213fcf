"""A check names what is wrong with the database file, and what is dropped is just the damage."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import (
    MemoryFormatError,
    RetrievalError,
    StorageError,
)
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.dropping import drop_damaged
from vla_retrieval.memory.findings import Part

from .checked import change, entry, fill, look, wrong
from .conftest import DIM, OpenMemory
from .oracle import unit_vectors


def flip_an_id(directory: Path, entry_id: int) -> None:
    """Flip the bit of 8 in the id of an entry, where a leaf of SQLite's tree has it."""
    path, (cell, content) = directory / "memory.sqlite3", cell_of(directory, entry_id)
    cell += 2 if content[cell] & 128 else 1  # behind the size of the row
    assert content[cell] == entry_id
    content[cell] ^= 8
    path.write_bytes(content)


def cell_of(directory: Path, entry_id: int) -> tuple[int, bytearray]:
    """Return where an entry begins in a database of one leaf, and the database."""
    path = directory / "memory.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'entries'"
        page = (connection.execute(query).fetchone()[0] - 1) * 4096
    content = bytearray(path.read_bytes())
    pointer = page + 8 + 2 * (entry_id - 1)
    return page + int.from_bytes(content[pointer : pointer + 2], "big"), content


def spoil_a_row(directory: Path, entry_id: int) -> None:
    """Let a row claim a header that is longer than the row: SQLite reads no such row."""
    path, (cell, content) = directory / "memory.sqlite3", cell_of(directory, entry_id)
    at = cell + (2 if content[cell] & 128 else 1) + 1  # behind the size of the row and its id
    content[at] = 0x7F
    path.write_bytes(content)


def put_a_leaf_in_the_place_of_the_last(directory: Path) -> None:
    """Write the middle leaf of the entries' tree over the last one, as a lost write does."""
    path = directory / "memory.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'entries'"
        root = (connection.execute(query).fetchone()[0] - 1) * 4096
    content = bytearray(path.read_bytes())
    assert content[root] == 5  # an inner page of a table

    def number(at: int, size: int) -> int:
        return int.from_bytes(content[at : at + size], "big")

    middle = number(root + 3, 2) // 2
    leaf = number(root + number(root + 12 + 2 * middle, 2), 4)
    last = number(root + 8, 4)
    content[(last - 1) * 4096 : last * 4096] = content[(leaf - 1) * 4096 : leaf * 4096]
    path.write_bytes(content)


class TestTheFile:
    def test_a_leaf_in_the_place_of_another_ends_every_walk_over_the_entries(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        """What comes after its last row are rows that came before, again and again."""
        fill(open_memory(), 600).close()
        put_a_leaf_in_the_place_of_the_last(directory)
        assert look(directory).has_wrong(Part.DATABASE)
        with (
            open_contents(directory) as contents,
            pytest.raises(MemoryFormatError, match="not in the order of their ids"),
        ):
            list(contents.portions())
        (directory / "index.snapshot").unlink()
        with pytest.raises(MemoryFormatError, match="not in the order of their ids"):
            open_memory()

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

    def test_a_row_under_another_id_is_named(self, sound: Path) -> None:
        """All of it is as it was, but no search's answer leads to it."""
        flip_an_id(sound, 5)
        assert (Part.ENTRY, 13) in wrong(sound)

    def test_a_row_that_sqlite_cannot_read_is_dropped_and_the_others_are_kept(
        self, sound: Path, open_memory: OpenMemory
    ) -> None:
        before = everything(sound)
        spoil_a_row(sound, 3)
        assert {(Part.DATABASE, None), (Part.ENTRY, 3)} <= wrong(sound)
        with open_contents(sound, write=True) as contents:
            drop_damaged(contents, check(contents))
        assert look(sound).wrong == []
        assert everything(sound) == [known for known in before if known[0] != 3]
        assert open_memory().entry_ids() == [1, 2, 4, 5]

    def test_a_version_in_the_header_that_keeps_writers_off_is_named(self, sound: Path) -> None:
        path = sound / "memory.sqlite3"
        content = bytearray(path.read_bytes())
        content[18] ^= 8
        path.write_bytes(content)
        assert (Part.DATABASE, None) in wrong(sound)

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


def everything(directory: Path) -> list[tuple[object, ...]]:
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
        "UPDATE entries SET instruction_checksum = 0 WHERE entry_id = 2",
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
        change(sound, "UPDATE entries SET scene_checksum = 0 WHERE entry_id = 5")
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
