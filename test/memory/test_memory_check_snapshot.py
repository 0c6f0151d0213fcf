"""A check names what is wrong with the snapshot of the index, and notes what is no damage."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vla_retrieval.memory import MemoryOptions, snapshot
from vla_retrieval.memory.findings import Part
from vla_retrieval.memory.rows import COLUMNS, to_row
from vla_retrieval.types import NewEntry, Similarity

from .checked import change, entry, fill, look, wrong
from .conftest import DIM, OpenMemory
from .oracle import unit_vectors


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

    def test_two_entries_that_changed_places_are_named(self, sound: Path) -> None:
        """Each is sound, under the id of the other."""
        swap(sound, COLUMNS.split(", ")[1:], 2, 4)
        assert wrong(sound) == {(Part.ENTRY, 2), (Part.ENTRY, 4)}

    def test_a_field_that_filters_ask_for_and_that_differs_is_named(self, sound: Path) -> None:
        swap_contents(sound, 2, 4)
        found = look(sound).wrong
        assert {f.entry_id for f in found} == {2, 4}
        assert {str(f).split("its ")[1].split(" is")[0] for f in found} == {
            "stamp", "position", "episode, frame, outcome, tags or metadata",
        }  # fmt: skip


TABLES = ("entries", "thumbnails", "usage")


def swap_embeddings(directory: Path, one: int, other: int) -> None:
    """Exchange the scenes of two entries, checksums and all."""
    swap(directory, ["scene_embedding", "scene_checksum"], one, other)


def swap_contents(directory: Path, one: int, other: int) -> None:
    """Exchange all of two entries of ``fill`` but their embeddings, with checksums that hold."""
    swap(directory, COLUMNS.split(", ")[1:], one, other)
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        place = COLUMNS.split(", ").index("checksum")
        for i, content in ((one, other), (other, one)):
            checksum = to_row(i, entry(content))[place]
            connection.execute("UPDATE entries SET checksum = ? WHERE entry_id = ?", (checksum, i))
        connection.commit()


def swap(directory: Path, columns: list[str], one: int, other: int) -> None:
    places = ", ".join(f"{column} = ?" for column in columns)
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        query = f"SELECT {', '.join(columns)} FROM entries WHERE entry_id = ?"
        rows = [connection.execute(query, (i,)).fetchone() for i in (one, other)]
        for i, row in zip((other, one), rows, strict=True):
            connection.execute(f"UPDATE entries SET {places} WHERE entry_id = ?", (*row, i))
        connection.commit()
