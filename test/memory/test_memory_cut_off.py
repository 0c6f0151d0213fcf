"""Writers that are cut off, by want of RAM or by Ctrl-C."""

from __future__ import annotations

from typing import Any

import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import Memory, entries
from vla_retrieval.types import Modality, NewEntry, Probe

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

SCENES = unit_vectors(3, DIM, 1)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("cut", ["index.Index.add", "columns.Columns.bury"])
def test_an_index_that_cannot_follow_is_never_searched(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, cut: str, error: type[BaseException]
) -> None:
    memory = open_memory()
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])
    memory.search([Probe(Modality.SCENE, SCENES[0])], 1)  # nothing waits for the index now

    def cut_off(*_: object) -> None:
        raise error

    def change() -> None:
        if cut.endswith("add"):  # the index follows when somebody needs it
            assert memory.add([NewEntry("second", 0)], SCENES[1:2], SCENES[1:2]) == [2]
            memory.search([Probe(Modality.SCENE, SCENES[0])], 1)
        else:
            memory.remove([1])

    with monkeypatch.context() as patch:
        patch.setattr(f"vla_retrieval.memory.{cut}", cut_off)
        with pytest.raises(StorageError, match="stored, but its index could not follow"):
            change()
    with pytest.raises(StorageError, match="could not follow"):
        memory.search([Probe(Modality.SCENE, SCENES[0])], 1)
    with pytest.raises(StorageError, match="could not follow"):
        memory.check_usable()
    found = open_memory().search([Probe(Modality.SCENE, SCENES[0])], 9)
    assert [c.entry_id for c in found.candidates] == ([1, 2] if cut.endswith("add") else [])


def cut_off_after_inserting(patch: pytest.MonkeyPatch) -> None:
    insert = entries.insert

    def cut_off(*arguments: Any) -> None:
        insert(*arguments)
        raise KeyboardInterrupt

    patch.setattr(entries, "insert", cut_off)


def test_a_write_that_is_cut_off_before_its_commit_changes_nothing(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])
    with monkeypatch.context() as patch:
        cut_off_after_inserting(patch)
        with pytest.raises(KeyboardInterrupt):
            memory.add([NewEntry("second", 0, thumbnail=b"jpeg")], SCENES[1:2], SCENES[1:2])
    assert memory.add([NewEntry("third", 0)], SCENES[2:3], SCENES[2:3]) == [2]
    assert memory.get(2).instruction == "third"


def test_a_write_that_is_cut_off_after_its_only_statement_is_said_to_be_stored(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    with monkeypatch.context() as patch:
        cut_off_after_inserting(patch)
        with pytest.raises(StorageError, match="stored, but its index could not follow"):
            memory.add([NewEntry("first", 0)], SCENES[:1], SCENES[:1])
    assert open_memory().get(1).instruction == "first"
