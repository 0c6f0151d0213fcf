"""A fingerprint that is damaged is neither believed nor blamed on the entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_retrieval.errors import MemoryFormatError, MemoryMismatchError
from vla_retrieval.memory.contents import open_contents

from .checked import COUNT, change, fill, look
from .conftest import DIM, OpenMemory
from .oracle import fingerprint

DAMAGE = [
    "UPDATE fingerprint SET value = replace(value, 'sha256:0', 'sha256:1')",
    f"UPDATE fingerprint SET value = replace(value, '\"dim\": {DIM}', '\"dim\": {DIM ^ 2}')",
    "UPDATE fingerprint SET value = '{\"model\": 1}'",
    "UPDATE fingerprint SET value = 'nonsense'",
    "UPDATE fingerprint SET value = ''",
    "DELETE FROM fingerprint",
    "UPDATE counters SET value = value + 1 WHERE name = 'fingerprint'",
]


@pytest.fixture
def sound(open_memory: OpenMemory, directory: Path) -> Path:
    fill(open_memory()).close()
    return directory


@pytest.mark.parametrize("damage", DAMAGE)
def test_tools_refuse_a_damaged_one_by_its_name_and_touch_no_entry(
    sound: Path, damage: str
) -> None:
    before = (sound / "memory.sqlite3").read_bytes
    change(sound, damage)
    damaged = before()
    for write in (False, True):
        with (
            pytest.raises(MemoryFormatError, match=r"fingerprint .*with the encoder that it was"),
            open_contents(sound, write=write, to_check=True),
        ):
            pass
    assert before() == damaged


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_encoder_that_it_was_made_with_mends_it(
    sound: Path, open_memory: OpenMemory, damage: str
) -> None:
    change(sound, damage)
    memory = open_memory()
    assert memory.stats().entries == COUNT
    assert memory.fingerprint == fingerprint(DIM)
    memory.close()
    assert look(sound).wrong == []
    assert open_memory(fingerprint=None).fingerprint == fingerprint(DIM)


@pytest.mark.parametrize("damage", DAMAGE)
def test_another_encoder_does_not(sound: Path, open_memory: OpenMemory, damage: str) -> None:
    change(sound, damage)
    with pytest.raises((MemoryFormatError, MemoryMismatchError)):
        open_memory(fingerprint=fingerprint(DIM + 1))


def test_a_memory_of_a_version_that_kept_no_checksum_gets_one(
    sound: Path, open_memory: OpenMemory
) -> None:
    change(sound, "DELETE FROM counters WHERE name = 'fingerprint'")
    assert look(sound).wrong == []
    open_memory().close()
    change(sound, DAMAGE[0])
    with pytest.raises(MemoryFormatError, match="differs from its checksum"):
        look(sound)


def test_one_that_is_whole_is_not_written_again(sound: Path, open_memory: OpenMemory) -> None:
    open_memory(durable=True).close()
    before = (sound / "memory.sqlite3").read_bytes()
    open_memory(durable=True).close()
    assert (sound / "memory.sqlite3").read_bytes() == before
