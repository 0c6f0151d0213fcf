"""Snapshots that are damaged, foreign, older or newer than the database."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import Memory, MemoryOptions
from vla_retrieval.memory.snapshot import Frozen, SnapshotError, read
from vla_retrieval.types import Filter, Modality, NewEntry, Probe, Similarity

from .conftest import DIM, OpenMemory
from .oracle import BruteForce, assert_same, fingerprint, unit_vectors

SNAPSHOT, DATABASE, LOG = "index.snapshot", "memory.sqlite3", "memory.sqlite3-wal"
TAIL = struct.Struct("<8sQII")
KINDS = ["exact", "pq", "pq_sq8", "hash"]


class Kept:
    """A memory and what it must hold, from opening to opening."""

    def __init__(self, open_memory: OpenMemory, directory: Path, index: str = "exact") -> None:
        self.directory, self.index = directory, index
        self.expected = BruteForce()
        self._open = open_memory
        self.memory = self.open()

    def open(self, **options: object) -> Memory:
        self.memory = self._open(options=MemoryOptions(index=self.index), **options)
        return self.memory

    def add(self, count: int) -> None:
        first = self.expected.next_id
        entries = [
            NewEntry(f"do {n}", n, episode_id=str(n % 3), tags=("even",) if n % 2 == 0 else ())
            for n in range(first, first + count)
        ]
        halves = unit_vectors(count, DIM, first), unit_vectors(count, DIM, first + 5000)
        assert self.memory.add(entries, *halves) == self.expected.add(entries, *halves)

    def remove(self, *ids: int) -> None:
        self.memory.remove(ids)
        self.expected.remove(ids)

    def write_snapshot(self) -> bytes:
        self.memory.wait_until_idle()
        self.memory.write_snapshot()
        return (self.directory / SNAPSHOT).read_bytes()

    def check(self, similarity: Similarity = Similarity.COSINE) -> None:
        assert self.memory.entry_ids() == sorted(self.expected.rows)
        scene, instruction = unit_vectors(2, DIM, 77)
        for probes in (
            [Probe(Modality.SCENE, scene)],
            [Probe(Modality.SCENE, scene, 0.4), Probe(Modality.INSTRUCTION, instruction, 0.6)],
        ):
            for wanted in (Filter(), Filter(tags=("even",), episode_ids=("1", "2"))):
                for k in (3, 10**4):
                    found = self.memory.search(probes, k, filter=wanted)
                    expected = self.expected.search(similarity, probes, k, wanted)
                    assert_same(found, expected)
        assert self.memory.get(max(self.expected.rows)).instruction.startswith("do ")

    @property
    def source(self) -> str:
        return self.memory.stats().index.opened_from

    def from_snapshot(self) -> bool:
        return self.source.startswith("the snapshot")


@pytest.fixture(params=KINDS)
def kept(
    request: pytest.FixtureRequest, open_memory: OpenMemory, directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Kept:  # fmt: skip
    """Return a memory of 60 entries with a snapshot, of each kind of index."""
    monkeypatch.setattr("vla_retrieval.memory.building.FEWEST_TO_FIT", 30)
    memory = Kept(open_memory, directory, request.param)
    memory.add(60)
    memory.remove(7, 30)
    memory.write_snapshot()
    assert memory.memory.stats().index.kind == request.param
    return memory


@pytest.fixture
def plain(open_memory: OpenMemory, directory: Path) -> Kept:
    """Return the same with an exact index."""
    memory = Kept(open_memory, directory)
    memory.add(60)
    memory.remove(7, 30)
    memory.write_snapshot()
    return memory


def sections(content: bytes) -> dict[str, tuple[int, int]]:
    """Return where each part of a snapshot starts and ends."""
    _, start, length, _ = TAIL.unpack(content[-TAIL.size :])
    table = json.loads(content[start : start + length])["sections"]
    starts = [where for _, _, _, where, _ in table]
    ends = [*starts[1:], start]
    found = {
        name: (begin, end)
        for (name, *_), begin, end in zip(table, starts, ends, strict=True)
        if end > begin
    }
    found["table of contents"] = (start, start + length)
    at = len(content) - TAIL.size
    for name, size in (("magic", 8), ("start", 8), ("size", 4), ("checksum", 4)):
        found[f"tail: {name}"] = (at, at + size)
        at += size
    return found


def test_a_sound_snapshot_opens_to_the_same_index(kept: Kept) -> None:
    before = kept.memory.stats().index
    assert bool(before.directions) == (kept.index != "exact")
    kept.open()
    assert kept.from_snapshot()
    after = kept.memory.stats().index
    assert (after.kind, after.rows, after.dead_rows) == (kept.index, before.rows, before.dead_rows)
    assert after.directions == before.directions
    kept.check()


def test_an_index_from_a_snapshot_is_not_built_anew_where_it_had_not_to_be(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        kept.open()
        kept.add(1)
        assert kept.memory.wait_until_idle()
    assert kept.from_snapshot()
    assert "building the index anew" not in caplog.text


def test_where_nothing_was_removed_the_ids_of_all_entries_are_not_read(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add(9)
    kept.memory.close()

    def unwanted(*_: object) -> None:
        raise AssertionError("all ids were read")

    with monkeypatch.context() as patch:
        patch.setattr("vla_retrieval.memory.entries.all_ids", unwanted)
        kept.open()
    assert kept.from_snapshot()
    kept.check()
    kept.remove(3)
    kept.open()
    assert kept.from_snapshot()
    kept.check()


def test_a_snapshot_behind_the_database_is_caught_up(kept: Kept) -> None:
    kept.add(9)
    kept.remove(1, 60, 61)
    kept.open()
    assert kept.from_snapshot()
    assert kept.memory.stats().index.snapshot_behind == 8 + 2  # 61 came and went
    kept.check()


def test_a_flipped_bit_in_any_part_is_found(kept: Kept) -> None:
    content = (kept.directory / SNAPSHOT).read_bytes()
    kept.memory.close()
    rng = np.random.default_rng(0)
    parts = sections(content)
    assert len(parts) >= 11
    for begin, end in parts.values():
        for at in {begin, end - 1, *rng.integers(begin, end, size=8).tolist()}:
            damaged = bytearray(content)
            damaged[at] ^= 1 << int(rng.integers(8))
            (kept.directory / SNAPSHOT).write_bytes(damaged)
            with pytest.raises(SnapshotError):
                read(kept.directory, fingerprint(DIM), Similarity.COSINE)


def test_a_snapshot_cut_off_at_any_length_is_found(kept: Kept) -> None:
    content = (kept.directory / SNAPSHOT).read_bytes()
    kept.memory.close()
    near_the_tail = range(len(content) - 2 * TAIL.size, len(content))
    for length in (*range(60), *range(61, len(content), 97), *near_the_tail):
        (kept.directory / SNAPSHOT).write_bytes(content[:length])
        with pytest.raises(SnapshotError):
            read(kept.directory, fingerprint(DIM), Similarity.COSINE)


def test_answers_are_right_whatever_part_of_the_snapshot_is_damaged(plain: Kept) -> None:
    content = (plain.directory / SNAPSHOT).read_bytes()
    flipped = []
    for begin, _ in sections(content).values():
        flipped.append(bytearray(content))
        flipped[-1][begin] ^= 4
    for damaged in (*flipped, content[:-1], content[: len(content) // 2], b""):
        plain.memory.close()
        (plain.directory / SNAPSHOT).write_bytes(damaged)
        plain.open()
        assert not plain.from_snapshot()
        plain.check()


def test_codes_are_built_anew_where_the_snapshot_is_damaged(kept: Kept) -> None:
    content = bytearray((kept.directory / SNAPSHOT).read_bytes())
    content[len(content) // 2] ^= 16
    kept.memory.close()
    (kept.directory / SNAPSHOT).write_bytes(content)
    kept.open()
    kept.check()
    assert kept.memory.wait_until_idle()
    assert kept.memory.stats().index.kind == kept.index
    kept.check()


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"{}", b'{"sections": 5}', b'{"format": 1, "sections": []}', b"\xff\xfe", b"",
        b'{"format": 99, "sections": []}',
    ],
)  # fmt: skip
def test_a_table_of_contents_of_another_make_is_no_snapshot(plain: Kept, header: bytes) -> None:
    plain.memory.close()
    tail = TAIL.pack(b"VLARSNAP", 0, len(header), zlib.crc32(header))
    (plain.directory / SNAPSHOT).write_bytes(header + tail)
    plain.open()
    assert not plain.from_snapshot()
    plain.check()


@pytest.mark.parametrize("part", ["scene.vectors", "instruction.vectors"])
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (1, "<f8"), (1, "nonsense"), (1, None), (2, [58, 7]), (2, [2, 2]), (2, None),
        (3, 2**63), (3, 2**40), (4, 0),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_its_arrays_is_no_snapshot(
    kept: Kept, part: str, place: int, value: object
) -> None:
    """Also where its own checksum holds: a program of another version may have written it."""
    kept.memory.close()
    content = (kept.directory / SNAPSHOT).read_bytes()
    magic, start, length, _ = TAIL.unpack(content[-TAIL.size :])
    header = json.loads(content[start : start + length])
    (section,) = (row for row in header["sections"] if row[0] == part)
    section[place] = value
    table = json.dumps(header).encode()
    tail = TAIL.pack(magic, start, len(table), zlib.crc32(table))
    (kept.directory / SNAPSHOT).write_bytes(content[:start] + table + tail)
    kept.open()
    assert not kept.from_snapshot()
    kept.check()


def test_a_disk_that_gives_a_few_bytes_at_a_time_is_read_to_the_end(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.memory.close()
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, to, at: preadv(file, [to[0][:1000]], at))
    kept.open()
    assert kept.from_snapshot()
    kept.check()


@pytest.mark.parametrize("call", [0, 3, -1])
def test_a_disk_that_fails_at_any_part_of_a_snapshot_costs_only_the_snapshot(
    kept: Kept, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.memory.close()
    preadv, calls = os.preadv, []

    def read(file: int, to: list[memoryview], at: int) -> int:
        calls.append(at)
        return preadv(file, to, at)

    monkeypatch.setattr(os, "preadv", read)
    kept.open()
    kept.memory.close()
    bad = sorted(calls)[call]

    def fail(file: int, to: list[memoryview], at: int) -> int:
        if at == bad:
            raise OSError(errno.EIO, "the disk fails")
        return preadv(file, to, at)

    monkeypatch.setattr(os, "preadv", fail)
    kept.open()
    assert not kept.from_snapshot()
    kept.check()


def test_what_stands_in_the_place_of_a_snapshot_and_is_no_file_is_left_out(plain: Kept) -> None:
    plain.memory.close()
    (plain.directory / SNAPSHOT).unlink()
    (plain.directory / SNAPSHOT).mkdir()
    plain.open()
    assert not plain.from_snapshot()
    plain.check()


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


def test_a_snapshot_half_written_when_its_process_died_goes_with_the_next_open_to_write(
    plain: Kept,
) -> None:
    """Else it keeps a disk full on which nothing can be added, so that none replaces it."""
    plain.memory.close()
    half = plain.directory / "index.snapshot.new"
    half.write_bytes(b"half")
    plain.open(read_only=True)
    assert half.exists()
    plain.open()
    assert not half.exists()
    assert plain.from_snapshot()
    plain.check()


@pytest.mark.parametrize("damage", ["cut off", "deleted"])
def test_a_large_memory_without_its_snapshot_says_so_in_the_log(
    open_memory: OpenMemory, directory: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, damage: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("vla_retrieval.memory.opening._WORTH_A_WARNING", 50)
    for count, warned in ((40, False), (60, True)):
        memory = Kept(open_memory, directory / str(count))
        memory._open = lambda *, at=directory / str(count), **o: open_memory(directory=at, **o)
        memory.open()
        memory.add(count)
        memory.write_snapshot()
        memory.memory.close()
        snapshot = directory / str(count) / SNAPSHOT
        if damage == "deleted":
            snapshot.unlink()
        else:
            os.truncate(snapshot, 100)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            memory.open()
        said = [r.getMessage() for r in caplog.records if "because of the snapshot" in r.message]
        assert bool(said) is warned
        assert all(str(snapshot) in text for text in said)
        memory.check()


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(
    plain: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (plain.directory / SNAPSHOT).read_bytes()
    plain.add(3)
    for failing in ("os.fsync", "pathlib.Path.replace", "vla_retrieval.memory.snapshot.sync"):
        with monkeypatch.context() as patch:
            patch.setattr(failing, refuse)
            with pytest.raises(StorageError, match="No space left"):
                plain.memory.write_snapshot()
        if not failing.endswith(".sync"):  # that comes after the rename
            assert (plain.directory / SNAPSHOT).read_bytes() == before
        assert not (plain.directory / "index.snapshot.new").exists()
    plain.open()
    plain.check()


def refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_entries_come_and_go_while_a_snapshot_is_written_and_it_shows_one_commit(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., None] = Frozen._write
    changed: list[int] = []

    def beside(self: Frozen, file: object) -> None:
        if not changed:
            changed.append(1)
            kept.add(40)
            kept.remove(3, 65)
        write(self, file)

    monkeypatch.setattr(Frozen, "_write", beside)
    kept.write_snapshot()
    kept.check()
    assert kept.memory.stats().index.snapshot_behind == 42
    kept.open()
    assert kept.from_snapshot()
    kept.check()
