"""Commits that cannot be read of a damaged log are named, not passed over."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.cli.memory import main
from vla_retrieval.errors import MemoryFormatError
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.dropping import drop_damaged
from vla_retrieval.memory.findings import Part
from vla_retrieval.memory.mending import mend_log
from vla_retrieval.memory.write_ahead import lost_commits
from vla_retrieval.types import NewEntry

from .checked import fill, look
from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

DATABASE, LOG = "memory.sqlite3", "memory.sqlite3-wal"
HEADER, FRAME = 32, 24 + 4096


@pytest.fixture
def cut_off(open_memory: OpenMemory, tmp_path: Path) -> Path:
    """Return what a memory leaves that is killed after 40 commits, one entry each."""
    memory = open_memory(durable=True)
    for n in range(40):
        memory.add(
            [NewEntry(f"task {n}", n)], unit_vectors(1, DIM, n), unit_vectors(1, DIM, 100 + n)
        )
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "memory", copy)
    return copy


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def frames(directory: Path) -> int:
    return ((directory / LOG).stat().st_size - HEADER) // FRAME


def test_a_log_that_is_whole_or_absent_has_lost_nothing(cut_off: Path) -> None:
    assert lost_commits(cut_off) is None
    assert look(cut_off).wrong == []
    (cut_off / LOG).write_bytes(b"")
    assert lost_commits(cut_off) is None
    (cut_off / LOG).unlink()
    assert lost_commits(cut_off) is None


@pytest.mark.parametrize("seed", range(6))
def test_as_many_commits_are_named_as_sqlite_passes_over(tmp_path: Path, seed: int) -> None:
    """One row a commit. Whether the last one had been acknowledged cannot be told."""
    rng = np.random.default_rng(seed)
    (tmp_path / "live").mkdir()
    with closing(sqlite3.connect(tmp_path / "live" / DATABASE, isolation_level=None)) as live:
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("CREATE TABLE rows (value BLOB)")
        live.execute("PRAGMA wal_checkpoint(RESTART)")
        for _ in range(60):
            live.execute("INSERT INTO rows VALUES (?)", (rng.bytes(int(rng.integers(9000))),))
        for number in range(12):
            copy = tmp_path / str(number)
            shutil.copytree(tmp_path / "live", copy)
            flip(copy / LOG, int(rng.integers((copy / LOG).stat().st_size)))
            lost = lost_commits(copy)
            with closing(sqlite3.connect(copy / DATABASE)) as read:
                (rows,) = read.execute("SELECT count(*) FROM rows").fetchone()
            assert (lost.commits if lost else 0) == max(0, 60 - rows - 1)


def test_a_commit_that_was_cut_off_is_no_damage(cut_off: Path) -> None:
    for size in range(HEADER, (cut_off / LOG).stat().st_size, 999):
        os.truncate(cut_off / LOG, size)
        assert lost_commits(cut_off) is None


def test_frames_of_an_earlier_round_are_no_commits(open_memory: OpenMemory, cut_off: Path) -> None:
    with closing(sqlite3.connect(cut_off / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        connection.execute("UPDATE entries SET pinned = 1 WHERE entry_id = 3")
        shutil.copytree(cut_off, cut_off.with_name("again"))
    again = cut_off.with_name("again")
    assert frames(again) > 2
    flip(again / LOG, HEADER + FRAME + 30)
    assert lost_commits(again) is None


def test_a_durable_memory_that_lost_commits_is_not_opened_as_if_it_had_not(
    open_memory: OpenMemory, cut_off: Path
) -> None:
    flip(cut_off / LOG, HEADER + frames(cut_off) // 3 * FRAME + 2000)
    for read_only in (False, True):
        with pytest.raises(MemoryFormatError, match=r"its log is damaged: \d+ commits"):
            open_memory(directory=cut_off, durable=True, read_only=read_only)
    assert [finding.part for finding in look(cut_off).wrong] == [Part.LOG]


def test_one_that_is_not_durable_is_opened_and_told(
    open_memory: OpenMemory, cut_off: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A loss of power leaves such logs there, and a robot has to start after one."""
    flip(cut_off / LOG, HEADER + frames(cut_off) // 3 * FRAME + 2000)
    with caplog.at_level(logging.WARNING):
        memory = open_memory(directory=cut_off, durable=False)
    assert 0 < memory.stats().entries < 40
    assert "its log is damaged" in caplog.text


def test_tools_that_go_on_with_what_is_left_tell_it(
    cut_off: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(cut_off / LOG, HEADER + frames(cut_off) // 3 * FRAME + 2000)
    with caplog.at_level(logging.WARNING), open_contents(cut_off) as contents:
        assert 0 < contents.count() < 40
    assert "its log is damaged" in caplog.text


def test_giving_up_what_is_lost_leaves_a_memory_that_gives_no_id_out_twice(
    open_memory: OpenMemory, cut_off: Path
) -> None:
    flip(cut_off / LOG, HEADER + frames(cut_off) // 3 * FRAME + 2000)
    with open_contents(cut_off, write=True, to_check=True) as contents:
        assert drop_damaged(contents, check(contents)).log
        left = contents.count()
    assert look(cut_off).wrong == []
    memory = open_memory(directory=cut_off, durable=True)
    assert memory.stats().entries == left
    (new,) = memory.add([NewEntry("one more", 1)], unit_vectors(1, DIM, 7), unit_vectors(1, DIM, 8))
    assert new > 40


@pytest.mark.parametrize("seed", range(4))
def test_a_mended_log_gives_back_all_but_what_the_bit_hit(cut_off: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mended, size = 0, (cut_off / LOG).stat().st_size
    sound = (cut_off / LOG).read_bytes()
    for _ in range(25):
        (cut_off / LOG).write_bytes(sound)
        flip(cut_off / LOG, int(rng.integers(size)))
        damaged = (cut_off / LOG).read_bytes()
        lost = lost_commits(cut_off)
        assert mend_log(cut_off) <= (lost is not None)
        if lost is None or (cut_off / LOG).read_bytes() == damaged:
            assert (cut_off / LOG).read_bytes() == damaged
            continue
        mended += 1
        assert lost_commits(cut_off) is None
        try:
            report = look(cut_off)
        except MemoryFormatError as error:
            assert "fingerprint" in str(error)  # noqa: PT017  (one bit of 200 000 hit it)
            continue
        assert report.entries == 40
        assert len(report.damaged_ids) <= 1
        assert {finding.entry_id for finding in report.wrong} == set(report.damaged_ids)
        assert not (cut_off / ".mending").exists()
    assert mended >= 15


def test_a_log_whose_commits_can_all_be_read_is_not_touched(cut_off: Path) -> None:
    before = (cut_off / LOG).read_bytes()
    assert not mend_log(cut_off)
    assert (cut_off / LOG).read_bytes() == before


def test_a_log_that_no_sound_database_comes_of_stays_as_it_is(cut_off: Path) -> None:
    """A page under the number of another would be written over that."""
    at = HEADER + frames(cut_off) // 3 * FRAME
    content = bytearray((cut_off / LOG).read_bytes())
    content[at : at + 4] = (2).to_bytes(4, "big")  # the page of a table that has one page
    (cut_off / LOG).write_bytes(content)
    assert not mend_log(cut_off)
    assert (cut_off / LOG).read_bytes() == content
    assert lost_commits(cut_off) is not None


def test_the_tool_mends_a_log_and_drops_what_the_bit_hit(
    cut_off: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = unit_vectors(1, DIM, 20)[0].tobytes()  # of entry 21
    flip(cut_off / LOG, (cut_off / LOG).read_bytes().index(scene) + 3)
    assert main(["check", str(cut_off), "--drop-damaged", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "mended: the log; all commits in it can be read again" in said
    assert look(cut_off).entries in (39, 40)
    assert look(cut_off).wrong == []


@pytest.mark.parametrize("beside", [LOG, "index.snapshot"])
def test_a_database_of_no_bytes_beside_what_it_held_is_not_taken_for_a_new_one(
    open_memory: OpenMemory, cut_off: Path, beside: str
) -> None:
    """SQLite would remove the log, and a start would begin an empty memory."""
    (cut_off / DATABASE).write_bytes(b"")
    if beside != LOG:
        (cut_off / LOG).unlink()
        (cut_off / beside).write_bytes(b"something")
    before = (cut_off / beside).read_bytes()
    with pytest.raises(MemoryFormatError, match="got a file of 0 bytes"), open_contents(cut_off):
        pass
    with pytest.raises(MemoryFormatError, match="got a file of 0 bytes"):
        open_memory(directory=cut_off)
    assert (cut_off / beside).read_bytes() == before


def test_a_database_without_tables_beside_a_snapshot_is_not_taken_for_a_new_one(
    open_memory: OpenMemory, directory: Path, tmp_path: Path
) -> None:
    """A young memory is in its log alone; without that its database is an empty one."""
    memory = fill(open_memory(durable=True))
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    memory.close()
    (copy / LOG).unlink()
    with pytest.raises(MemoryFormatError, match=r"an empty database beside index\.snapshot"):
        open_memory(directory=copy)


def test_an_id_that_only_a_snapshot_knows_is_not_given_out_again(
    open_memory: OpenMemory, directory: Path, tmp_path: Path
) -> None:
    """An older copy of the database was put back, or its log is gone."""
    memory = fill(open_memory(durable=True), 3)
    memory.close()
    older = (directory / DATABASE).read_bytes()
    memory = open_memory(durable=True)
    memory.add([NewEntry("later", 1)] * 4, unit_vectors(4, DIM, 1), unit_vectors(4, DIM, 2))
    memory.write_snapshot()
    memory.close()
    (directory / DATABASE).write_bytes(older)
    for expected in (8, 9):  # also when it was closed in between, with a snapshot of its own
        memory = open_memory(durable=True)
        (new,) = memory.add([NewEntry("new", 1)], unit_vectors(1, DIM, 3), unit_vectors(1, DIM, 4))
        assert new == expected
        memory.write_snapshot()
        memory.close()
    assert open_memory().entry_ids() == [1, 2, 3, 8, 9]
    open_memory().close()
    assert look(directory).wrong == []


def test_the_tool_says_in_json_that_a_log_was_mended_also_where_nothing_else_is_wrong(
    cut_off: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(cut_off / LOG, HEADER + frames(cut_off) // 3 * FRAME + 17)  # in a checksum of the log
    assert main(["check", str(cut_off), "--drop-damaged", "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["log_mended"], said["entries"]) == (True, 40)
