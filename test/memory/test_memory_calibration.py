"""The text that says what scores mean is kept with the memory, whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.dropping import drop_damaged
from vla_retrieval.memory.findings import Part
from vla_retrieval.types import NewEntry

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

DAMAGED = pytest.mark.parametrize("value", ["'another'", "''", "CAST(x'F4657874' AS TEXT)"])
"""What is stored instead, also a text in which a flipped bit left no Unicode."""


def damage(directory: Path, value: str) -> None:
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        connection.execute(f"UPDATE calibration SET value = {value}")
        connection.commit()


def test_a_new_memory_has_none(open_memory: OpenMemory) -> None:
    assert open_memory().calibration() is None


def test_it_survives_a_restart_and_changes_of_entries(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.set_calibration("分数")
    memory.add([NewEntry("x", 0)], unit_vectors(1, DIM, 1), unit_vectors(1, DIM, 2))
    memory.remove([1])
    memory.compact()
    assert memory.calibration() == "分数"
    assert open_memory().calibration() == "分数"
    assert open_memory(read_only=True).calibration() == "分数"


def test_a_new_one_takes_the_place_of_the_old_and_none_removes_it(open_memory: OpenMemory) -> None:
    memory = open_memory()
    for text in ("first", "second", None):
        memory.set_calibration(text)
        assert memory.calibration() == text
        memory = open_memory()
        assert memory.calibration() == text


def test_a_memory_that_is_only_read_takes_none(open_memory: OpenMemory) -> None:
    open_memory().set_calibration("text")
    memory = open_memory(read_only=True)
    with pytest.raises(StorageError, match="read only"):
        memory.set_calibration("other")
    assert memory.calibration() == "text"


@DAMAGED
def test_a_damaged_one_is_none_and_the_entries_are_there(
    open_memory: OpenMemory, directory: Path, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    memory = open_memory()
    memory.add([NewEntry("x", 0)], unit_vectors(1, DIM, 1), unit_vectors(1, DIM, 2))
    memory.set_calibration("text")
    memory.close()
    damage(directory, value)
    memory = open_memory()
    assert memory.calibration() is None
    assert memory.entry_ids() == [1]
    assert "memory calibrate" in caplog.text


@DAMAGED
def test_a_damaged_one_is_named_and_dropped(
    open_memory: OpenMemory, directory: Path, value: str
) -> None:
    memory = open_memory()
    memory.set_calibration("text")
    memory.close()
    damage(directory, value)
    with open_contents(directory, write=True) as contents:
        report = check(contents)
        assert [finding.part for finding in report.wrong] == [Part.CALIBRATION]
        assert drop_damaged(contents, report).calibration
        assert not check(contents).wrong


def test_of_two_calibrations_at_once_the_one_in_use_is_the_one_on_disk(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    turn = memory._live.writing

    @contextmanager
    def and_then_another(**options: bool) -> Iterator[object]:
        with turn(**options) as index:
            yield index
        monkeypatch.undo()
        memory.set_calibration("second")

    monkeypatch.setattr(memory._live, "writing", and_then_another)
    memory.set_calibration("first")
    assert memory.calibration() == "second"
    assert open_memory().calibration() == "second"
