"""Snapshots that are damaged, or written while entries come and go."""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import MemoryOptions
from vla_retrieval.memory.snapshot import Frozen, SnapshotError, read
from vla_retrieval.types import Similarity

from .conftest import DIM, OpenMemory
from .kept import SNAPSHOT, Kept
from .oracle import fingerprint

TAIL = struct.Struct("<8sQII")


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


def test_an_index_from_a_snapshot_is_searched_with_as_many_threads_as_are_asked_for(
    plain: Kept, open_memory: OpenMemory
) -> None:
    plain.memory = open_memory(options=MemoryOptions(index="exact", search_threads=3))
    assert plain.from_snapshot()
    assert plain.memory._live.glance().threads == 3


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


def test_the_old_snapshot_is_trusted_after_one_that_was_cut_off_before_it_had_its_name(
    plain: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has named the new one by then."""
    plain.add(3)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", refuse)
        with pytest.raises(StorageError, match="No space left"):
            plain.memory.write_snapshot()
    plain.open()
    assert plain.source.startswith("the snapshot, 3 changes behind")
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
