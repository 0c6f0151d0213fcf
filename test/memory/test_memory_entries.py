"""What is stored comes back, and stays."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_retrieval.errors import (
    EntryNotFoundError,
    InvalidInputError,
    MemoryFormatError,
    StorageError,
)
from vla_retrieval.memory import Memory
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.names import DATABASE_NAME
from vla_retrieval.memory.rows import to_entry, to_row
from vla_retrieval.types import (
    Action,
    CameraPose,
    Entry,
    Filter,
    Modality,
    NewEntry,
    Outcome,
    Probe,
    Similarity,
)

from .conftest import DIM, OpenMemory
from .oracle import fingerprint, unit_vectors

FULL = NewEntry(
    instruction="拿起桌子上的杯子\0 and more",
    stamp_ns=2**63 - 1,
    frame_id="camera_link",
    episode_id="episode 7",
    outcome=Outcome.FAILURE,
    action=Action("xyz", (2, 3), np.arange(6, dtype=np.float32) / np.float32(3)),
    camera_pose=CameraPose("map", 12, (0.1, -2.0, 3e-9), (0.0, 0.6, 0.0, 0.8)),
    tags=("zebra", "红色", "apple"),
    metadata={"operator": "", "note": "a\0b", "键": "值"},
    thumbnail=bytes(range(256)),
)


def add(memory: Memory, *entries: NewEntry, seed: int = 0) -> list[int]:
    return memory.add(
        entries,
        unit_vectors(len(entries), DIM, seed),
        unit_vectors(len(entries), DIM, seed + 1000),
    )


def plain(count: int) -> list[NewEntry]:
    return [NewEntry(f"do {n}", n, thumbnail=b"jpeg") for n in range(count)]


def assert_is_full(entry: Entry, thumbnail: bytes) -> None:
    assert (entry.action is None) == (FULL.action is None)
    if entry.action and FULL.action:
        assert (entry.action.space, entry.action.shape) == (FULL.action.space, FULL.action.shape)
        assert entry.action.values.dtype == np.float32
        np.testing.assert_array_equal(entry.action.values, FULL.action.values)
    assert entry.thumbnail == thumbnail
    for name in (
        "instruction", "stamp_ns", "frame_id", "episode_id", "outcome", "camera_pose", "tags",
        "metadata",
    ):  # fmt: skip
        assert getattr(entry, name) == getattr(FULL, name)


def test_every_field_of_an_entry_comes_back(memory: Memory) -> None:
    (entry_id,) = add(memory, FULL)
    assert_is_full(memory.get(entry_id, thumbnail=True), FULL.thumbnail)
    assert memory.get(entry_id).entry_id == entry_id


def test_a_restart_keeps_every_field(open_memory: OpenMemory) -> None:
    (entry_id,) = add(open_memory(), FULL)
    assert_is_full(open_memory().get(entry_id, thumbnail=True), FULL.thumbnail)


def test_the_thumbnail_comes_only_when_asked_for(memory: Memory) -> None:
    (entry_id,) = add(memory, FULL)
    assert_is_full(memory.get(entry_id), b"")


def test_embeddings_come_back_bit_by_bit(open_memory: OpenMemory) -> None:
    scenes, instructions = unit_vectors(3, DIM, 1), unit_vectors(3, DIM, 2)
    ids = open_memory().add(plain(3), scenes, instructions)
    memory = open_memory(similarity=Similarity.DOT)
    for row, entry_id in enumerate(ids):
        scene, instruction = memory.embeddings(entry_id)
        assert scene.dtype == instruction.dtype == np.float32
        np.testing.assert_array_equal(scene, scenes[row])
        np.testing.assert_array_equal(instruction, instructions[row])


def test_ids_start_at_one_and_ascend(memory: Memory) -> None:
    assert add(memory, *plain(3)) == [1, 2, 3]
    assert add(memory, *plain(2)) == [4, 5]


def test_a_removed_id_is_never_given_out_again(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remove(add(memory, *plain(3)))
    assert add(memory, *plain(1)) == [4]
    memory.remove([4])
    assert add(open_memory(), *plain(1)) == [5]


def test_adding_nothing_changes_nothing(memory: Memory) -> None:
    assert add(memory) == []
    assert memory.stats().entries == 0


def test_entries_come_in_the_order_asked_for(memory: Memory) -> None:
    add(memory, *plain(5))
    assert [entry.entry_id for entry in memory.get_many([4, 1, 4, 2])] == [4, 1, 4, 2]
    assert memory.get_many([]) == []


def test_numpy_ids_are_ids(memory: Memory) -> None:
    ids = np.array(add(memory, *plain(3)))
    assert [entry.entry_id for entry in memory.get_many(ids)] == [1, 2, 3]  # type: ignore[arg-type]  # what an index hands over
    memory.remove(ids)  # type: ignore[arg-type]  # the same
    assert memory.stats().entries == 0


def test_many_thousand_entries_are_read_and_removed_at_once(memory: Memory) -> None:
    ids = add(memory, *plain(25_000))
    assert [entry.entry_id for entry in memory.get_many(ids, thumbnails=True)] == ids
    memory.remove(ids[1:])
    assert memory.stats().entries == 1


def test_any_number_of_ids_is_read_with_few_statements(memory: Memory, directory: Path) -> None:
    """SQLite keeps each that was prepared: RAM that would grow with every other number."""
    statements = set()

    class Recording(sqlite3.Connection):
        def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:
            statements.add(sql)
            return super().execute(sql, *given)

    ids = add(memory, *plain(300))
    memory.close()
    path = directory / DATABASE_NAME
    with closing(sqlite3.connect(path, factory=Recording)) as connection:
        for count in range(1, 301):
            found = store.read(connection, ids[-count:], thumbnails=False, path=path)
            assert [entry.entry_id for entry in found] == ids[-count:]
    assert len(statements) == 10  # for 1, 2, 4, ... 512 ids


@pytest.mark.parametrize("unknown", [0, -1, 4, 2**63 - 1, 2**63, -(2**70)])
def test_an_unknown_id_is_named(memory: Memory, unknown: int) -> None:
    add(memory, *plain(3))
    for ask in (
        lambda: memory.get(unknown),
        lambda: memory.get_many([1, unknown]),
        lambda: memory.embeddings(unknown),
        lambda: memory.remove([1, unknown]),
    ):
        with pytest.raises(EntryNotFoundError, match=rf"the id {unknown} "):
            ask()


def test_removing_is_all_or_none(memory: Memory) -> None:
    add(memory, *plain(3))
    with pytest.raises(EntryNotFoundError):
        memory.remove([1, 2, 99])
    assert [entry.entry_id for entry in memory.get_many([1, 2, 3])] == [1, 2, 3]
    found = memory.search([Probe(Modality.SCENE, unit_vectors(1, DIM, 9)[0])], 10)
    assert found.memory_size == 3


def test_a_forgotten_entry_is_never_matched_again(open_memory: OpenMemory) -> None:
    memory = open_memory()
    add(memory, *plain(3))
    scene, instruction = memory.embeddings(2)
    memory.remove([2])
    for restarted in (False, True):
        now = open_memory() if restarted else memory
        for probe in (Probe(Modality.SCENE, scene), Probe(Modality.INSTRUCTION, instruction)):
            found = now.search([probe], 10)
            assert sorted(c.entry_id for c in found.candidates) == [1, 3]


def test_a_forgotten_entry_leaves_no_row_behind(memory: Memory) -> None:
    memory.remove(add(memory, FULL))
    with memory._database.reading() as connection:
        for table in ("entries", "thumbnails"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_removing_one_id_twice_in_a_call_removes_it_once(memory: Memory) -> None:
    add(memory, *plain(2))
    memory.remove([1, 1])
    assert memory.stats().entries == 1


def test_stats_say_what_is_there(memory: Memory, directory: Path) -> None:
    empty = memory.stats()
    assert (empty.entries, empty.oldest_stamp_ns, empty.newest_stamp_ns) == (0, None, None)
    add(memory, NewEntry("a", 50), NewEntry("b", 7), NewEntry("c", 9))
    stats = memory.stats()
    assert (stats.entries, stats.oldest_stamp_ns, stats.newest_stamp_ns) == (3, 7, 50)
    assert stats.size_bytes == sum(f.stat().st_size for f in directory.iterdir())
    assert (stats.similarity, stats.fingerprint) == (Similarity.COSINE, fingerprint(DIM))
    assert stats.directory == directory


def bad(value: float) -> np.ndarray:
    vectors = unit_vectors(1, DIM, 0)
    vectors[0, 3] = value
    return vectors


@pytest.mark.parametrize("half", ["scenes", "instructions"])
@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (bad(np.nan), "finite numbers, got NaN or infinity"),
        (bad(np.inf), "finite numbers, got NaN or infinity"),
        (np.zeros((1, DIM), np.float32), "got length 0"),
        (2 * unit_vectors(1, DIM, 0), "length 1 within 0.001, got length 2"),
        (unit_vectors(1, DIM + 1, 0), r"shape \(1, 8\), got shape \(1, 9\)"),
        (unit_vectors(2, DIM, 0), r"shape \(1, 8\), got shape \(2, 8\)"),
        (unit_vectors(1, DIM, 0)[0], r"shape \(1, 8\), got shape \(8,\)"),
        (unit_vectors(1, DIM, 0).astype(np.float64), "a float32 array, got float64"),
        ([[1.0] * DIM], "a float32 array, got list"),
    ],
)
def test_bad_embeddings_are_refused_by_name(
    memory: Memory, half: str, vectors: np.ndarray, said: str
) -> None:
    given = {"scenes": unit_vectors(1, DIM, 0), "instructions": unit_vectors(1, DIM, 0)}
    with pytest.raises(InvalidInputError, match=f"{half}: expected .*{said}"):
        memory.add(plain(1), **{**given, half: vectors})
    assert memory.stats().entries == 0


@pytest.mark.parametrize("half", ["scenes", "instructions"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0])
def test_one_bad_embedding_keeps_its_whole_batch_out(
    memory: Memory, half: str, value: float
) -> None:
    given = {"scenes": unit_vectors(3, DIM, 0), "instructions": unit_vectors(3, DIM, 1)}
    given[half][1, 3] = value
    with pytest.raises(InvalidInputError, match=f"{half}: expected"):
        memory.add(plain(3), **given)
    assert memory.stats().entries == 0


def test_entries_that_say_the_same_words_of_different_things_are_told_apart(
    memory: Memory,
) -> None:
    by_field = {
        "episode": (NewEntry("a", 0, episode_id="x"), Filter(episode_ids=("x",))),
        "frame": (NewEntry("a", 0, frame_id="x"), Filter(frame_ids=("x",))),
        "tag": (NewEntry("a", 0, tags=("x",)), Filter(tags=("x",))),
        "metadata": (NewEntry("a", 0, metadata={"x": "x"}), Filter(metadata={"x": "x"})),
    }
    ids = add(memory, *(entry for entry, _ in by_field.values()))
    ids += add(memory, *(entry for entry, _ in by_field.values()))  # known by now
    probe = Probe(Modality.SCENE, unit_vectors(1, DIM, 0)[0])
    for position, (_, wanted) in enumerate(by_field.values()):
        found = memory.search([probe], 8, filter=wanted).candidates
        assert {match.entry_id for match in found} == {ids[position], ids[position + 4]}


def test_raw_embeddings_may_have_any_length_but_zero(open_memory: OpenMemory) -> None:
    memory = open_memory(fingerprint=fingerprint(DIM, normalized=False))
    long = 1000 * unit_vectors(2, DIM, 0)
    ids = memory.add(plain(2), long, long)
    np.testing.assert_array_equal(memory.embeddings(ids[1])[0], long[1])
    with pytest.raises(InvalidInputError, match="got length 0"):
        memory.add(plain(2), long, 0 * long)


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (NewEntry("a", 2**63), "stamp"),
        (NewEntry("a", 0, frame_id="\ud800"), "frame_id"),
        (NewEntry("a", 0, episode_id="\ud800"), "episode_id"),
        (NewEntry("a", 0, tags=("\ud800",)), "tags"),
        (NewEntry("a", 0, metadata={"\ud800": ""}), "metadata"),
        (NewEntry("a", 0, metadata={"key": 1}), "metadata"),  # type: ignore[dict-item]  # that is the mistake
        (NewEntry("a", 0, action=Action("\ud800", (1,), np.ones(1, np.float32))), "action.space"),
        (
            NewEntry("a", 0, camera_pose=CameraPose("\ud800", 0, (0, 0, 0), (0, 0, 0, 1))),
            "camera_pose.frame_id",
        ),
        (
            NewEntry("a", 0, camera_pose=CameraPose("map", -1, (0, 0, 0), (0, 0, 0, 1))),
            "camera_pose.stamp",
        ),
    ],
)
def test_what_the_database_cannot_hold_is_refused_by_name(
    memory: Memory, entry: NewEntry, field: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^{field}: expected"):
        add(memory, NewEntry("good", 0), entry)
    assert memory.stats().entries == 0


def test_a_closed_memory_says_so(open_memory: OpenMemory) -> None:
    memory = open_memory()
    add(memory, *plain(1))
    memory.close()
    memory.close()
    probe = Probe(Modality.SCENE, unit_vectors(1, DIM, 0)[0])
    for use in (
        lambda: memory.get(1),
        lambda: memory.search([probe], 1),
        lambda: memory.remove([1]),
        lambda: add(memory, *plain(1)),
        memory.stats,
    ):
        with pytest.raises(StorageError, match="closed"):
            use()


def test_a_memory_closes_at_the_end_of_its_block(directory: Path) -> None:
    with Memory.open(directory, fingerprint(DIM)) as memory:
        add(memory, *plain(1))
    with Memory.open(directory, fingerprint(DIM)) as memory:
        assert memory.get(1).instruction == "do 0"


def test_a_value_of_another_kind_is_damage_and_no_accident(tmp_path: Path) -> None:
    row = list(to_row(1, FULL))
    for place, value in (
        (1, b"put"),
        (3, 7),
        (2, "now"),
        (11, "x"),
        (8, "values"),
        (13, None),
        (21, 7),
        (22, "[]"),
    ):
        damaged = [*row[:place], value, *row[place + 1 :]]
        with pytest.raises(MemoryFormatError, match="entry 1 differs from its checksum"):
            to_entry((*damaged,), tmp_path)
