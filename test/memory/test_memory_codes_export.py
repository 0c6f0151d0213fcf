"""An export with the binary codes of a head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_retrieval.errors import HeadMismatchError, InvalidInputError
from vla_retrieval.memory import Memory
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.projection import Head
from vla_retrieval.transfer import export_folder, export_parquet, import_entries, open_source
from vla_retrieval.types import Modality, NewEntry

from .conftest import DIM, OpenMemory
from .heads import make_head
from .oracle import unit_vectors

COUNT = 300
HEAD = make_head(DIM, 1, bits=24)
FORMATS: dict[str, Any] = {"parquet": export_parquet, "directory": export_folder}


both_forms = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture
def filled(memory: Memory, directory: Path) -> Path:
    """Return the directory of a closed memory whose first entry is gone."""
    entries = [NewEntry(f"do {n}", n) for n in range(COUNT)]
    memory.add(entries, unit_vectors(COUNT, DIM, 1), unit_vectors(COUNT, DIM, 2))
    memory.remove([1])
    memory.close()
    return directory


def export(directory: Path, target: Path, form: str, head: Head | None) -> int:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    with open_contents(directory) as contents:
        return int(FORMATS[form](contents, target, head=head))


def read_codes(path: Path, form: str) -> tuple[list[np.ndarray], str]:
    """Return the codes of both halves and the digest of the head that made them."""
    if form == "directory":
        files = ("scene_codes.npy", "instruction_codes.npy")
        about = json.loads((path / "memory.json").read_text("utf-8"))["codes"]
        assert about["bits"] == HEAD.bits
        return [np.load(path / name) for name in files], about["head"]
    table = __import__("pyarrow.parquet").parquet.read_table(path)
    halves = [table[f"{half}_code"].to_pylist() for half in ("scene", "instruction")]
    made = [np.frombuffer(b"".join(half), np.uint8).reshape(-1, HEAD.bits // 8) for half in halves]
    return made, table.schema.metadata[b"vla_retrieval.head"].decode()


@both_forms
def test_has_the_code_of_every_entry_in_its_row(filled: Path, tmp_path: Path, form: str) -> None:
    assert export(filled, tmp_path / "out", form, HEAD) == COUNT - 1
    codes, digest = read_codes(tmp_path / "out", form)
    assert digest == HEAD.digest
    for modality, seed, found in zip(Modality, (1, 2), codes, strict=True):
        expected = HEAD.codes(unit_vectors(COUNT, DIM, seed), modality)[1:]
        np.testing.assert_array_equal(found, expected)


@both_forms
def test_is_imported_as_one_without_codes_is(
    filled: Path, open_memory: OpenMemory, tmp_path: Path, form: str
) -> None:
    export(filled, tmp_path / "out", form, HEAD)
    memory = open_memory(directory=tmp_path / "other")
    import_entries(memory, open_source(tmp_path / "out").batches(), lambda old, new: None)
    np.testing.assert_array_equal(memory.embeddings(1)[0], unit_vectors(COUNT, DIM, 1)[1])
    assert memory.stats().entries == COUNT - 1


@both_forms
def test_of_an_empty_memory_has_codes_of_no_entry(
    memory: Memory, directory: Path, tmp_path: Path, form: str
) -> None:
    memory.close()
    assert export(directory, tmp_path / "out", form, HEAD) == 0
    codes, _ = read_codes(tmp_path / "out", form)
    assert [len(half) for half in codes] == [0, 0]


@both_forms
def test_with_a_head_that_has_no_codes_or_is_of_another_encoder_leaves_nothing(
    filled: Path, tmp_path: Path, form: str
) -> None:
    with pytest.raises(InvalidInputError, match="makes codes"):
        export(filled, tmp_path / "out", form, make_head(DIM, 1))
    with pytest.raises(HeadMismatchError, match="was trained on another encoder"):
        export(filled, tmp_path / "out", form, make_head(DIM + 8, 1, bits=8))
    assert not (tmp_path / "out").exists()
