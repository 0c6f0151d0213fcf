"""Snapshots of another memory, of other embeddings, or older or newer than the database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vla_retrieval.memory import Memory, MemoryOptions, snapshot
from vla_retrieval.types import NewEntry, Similarity

from .kept import SNAPSHOT, Kept
from .oracle import DIM, BruteForce, fingerprint, unit_vectors

DATABASE, LOG = "memory.sqlite3", "memory.sqlite3-wal"


def test_the_snapshot_of_another_memory_is_not_trusted(kept: Kept, tmp_path: Path) -> None:
    with Memory.open(
        tmp_path / "other", fingerprint(DIM), durable=False, options=MemoryOptions(index=kept.index)
    ) as other:
        vectors = unit_vectors(40, DIM, 4)
        other.add([NewEntry("other", 0)] * 40, vectors, vectors)
        other.wait_until_idle()
        other.write_snapshot()
    kept.memory.close()
    shutil.copy(tmp_path / "other" / SNAPSHOT, kept.directory / SNAPSHOT)
    kept.open()
    assert "another history" in kept.source
    kept.check()


@pytest.mark.parametrize("field", ["similarity", "fingerprint"])
def test_a_snapshot_of_other_embeddings_is_not_trusted(
    plain: Kept, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if field == "similarity":
        plain.open(similarity=Similarity.NEGATIVE_L2)
        assert not plain.from_snapshot()
        plain.check(Similarity.NEGATIVE_L2)
        return
    other = fingerprint(DIM, model="another")
    monkeypatch.setattr(plain.memory._maintenance, "_fingerprint", other)
    plain.write_snapshot()
    plain.open()
    assert "expected fingerprint" in plain.source
    plain.check()


def test_an_older_snapshot_of_the_same_history_is_caught_up_or_left_out(kept: Kept) -> None:
    older = (kept.directory / SNAPSHOT).read_bytes()
    kept.add(5)
    kept.remove(2)
    kept.write_snapshot()
    for _ in range(2):  # the one before the newest, and the one before that
        kept.memory.close()
        (kept.directory / SNAPSHOT).write_bytes(older)
        kept.open()
        kept.check()
        kept.add(2)
        kept.remove(max(kept.expected.rows))
        kept.write_snapshot()


def copy_of(directory: Path, to: Path) -> Path:
    shutil.copytree(directory, to)
    return to


def put_back(copy: Path, directory: Path) -> None:
    """Put an older database back, beside the snapshot that is there."""
    (directory / LOG).unlink(missing_ok=True)
    shutil.copy(copy / DATABASE, directory / DATABASE)


def test_an_older_database_beside_a_newer_snapshot_does_not_trust_it(
    kept: Kept, tmp_path: Path
) -> None:
    kept.memory.close()
    copy, rows, next_id = copy_of(kept.directory, tmp_path / "copy"), *state(kept)
    kept.open()
    kept.add(8)
    kept.write_snapshot()
    kept.memory.close()
    put_back(copy, kept.directory)
    kept.expected = BruteForce(rows, next_id)
    kept.open()
    assert "another history" in kept.source
    kept.check()


def test_an_older_database_that_went_on_does_not_trust_the_snapshot_of_its_other_future(
    kept: Kept, tmp_path: Path
) -> None:
    """Its sequence has passed the snapshot's, so that only the marks can tell."""
    kept.memory.close()
    copy, rows, next_id = copy_of(kept.directory, tmp_path / "copy"), *state(kept)
    kept.open()
    kept.add(3)
    kept.write_snapshot()
    kept.memory.close()
    future = (kept.directory / SNAPSHOT).read_bytes()
    put_back(copy, kept.directory)
    (kept.directory / SNAPSHOT).unlink()
    kept.expected = BruteForce(rows, next_id)
    kept.open()
    for _ in range(5):  # the ids of the other future with other embeddings
        before = kept.expected.next_id
        vectors = unit_vectors(1, DIM, 9_000 + before)
        assert kept.memory.add([NewEntry("do other", 0)], vectors, vectors) == [before]
        kept.expected.add([NewEntry("do other", 0)], vectors, vectors)
    kept.memory.close()
    (kept.directory / SNAPSHOT).write_bytes(future)
    kept.open()
    assert "another history" in kept.source
    kept.check()


def state(kept: Kept) -> tuple[dict, int]:
    return dict(kept.expected.rows), kept.expected.next_id


def test_a_lost_log_leaves_what_was_folded_and_the_newer_snapshot_is_left_out(
    plain: Kept, tmp_path: Path
) -> None:
    """As when somebody deletes the -wal file after a crash."""
    plain.open()  # folds the log
    rows, next_id = state(plain)
    plain.add(4)
    plain.write_snapshot()
    crashed = copy_of(plain.directory, tmp_path / "crashed")  # its log is not folded
    assert (crashed / LOG).stat().st_size > 0
    (crashed / LOG).unlink()
    plain.expected = BruteForce(rows, next_id)
    plain.open(directory=crashed)
    assert "another history" in plain.source
    plain.check()


def test_a_snapshot_that_does_not_say_what_asks_beside_a_direction_is_taken_as_it_was_meant(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, only pairs of which each part asks for its own half were tuned."""
    tuned = set(kept.memory.stats().index.directions)
    own = {d for d in tuned if not d.beside or d.beside != d.source}
    others = (d for d in kept.memory._live.glance().depths if d.beside is d.source)
    for direction in list(others):
        del kept.memory._live.glance().depths[direction]
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_named", lambda beside: beside is not None)
        kept.write_snapshot()
    kept.open()
    assert kept.from_snapshot()
    assert set(kept.memory.stats().index.directions) == own
    kept.check()
