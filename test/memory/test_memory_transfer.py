"""What is exported is imported again as it was, and an export is whole or not there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_retrieval.errors import (
    InvalidInputError,
    MemoryFormatError,
    MemoryMismatchError,
    RetrievalError,
    StorageError,
)
from vla_retrieval.memory import Memory
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.transfer import import_entries, open_source
from vla_retrieval.types import Action, CameraPose, Entry, NewEntry, Outcome

from .checked import change, entry, fill
from .conftest import DIM, OpenMemory
from .exporting import FORMATS, export, load
from .oracle import fingerprint, unit, unit_vectors

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
instructions = texts.filter(str.strip)
stamps = st.one_of(st.integers(0, 2**63 - 1), st.just(2**63 - 1))
numbers = st.floats(allow_nan=False, allow_infinity=False)
poses = st.builds(
    CameraPose, texts, stamps, st.tuples(numbers, numbers, numbers),
    st.tuples(numbers, numbers, numbers, numbers).filter(any),
)  # fmt: skip


@st.composite
def actions(draw: st.DrawFn) -> Action:
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(arrays(np.float32, int(np.prod(shape)), elements=finite))
    return Action(draw(instructions), shape, values)


entries = st.builds(
    NewEntry, instructions, stamps, texts, texts, st.sampled_from(Outcome),
    st.none() | actions(), st.none() | poses,
    st.lists(texts.filter(bool), unique=True, max_size=3).map(tuple),
    st.dictionaries(texts.filter(bool), texts, max_size=3),
    st.just(b"") | st.binary(min_size=1, max_size=20), st.booleans(),
)  # fmt: skip


def plain(stored: Entry) -> dict[str, Any]:
    """Return all that an import keeps, with the bits of the action's values."""
    found = {**vars(stored)}
    del found["entry_id"], found["merged"]
    if stored.action is not None:
        found["action"] = (
            stored.action.space, stored.action.shape, stored.action.values.tobytes(),
        )  # fmt: skip
    return found


def everything(memory: Memory) -> list[tuple[dict[str, Any], bytes, bytes]]:
    """Return what a memory holds, in the order of the ids."""
    ids = memory.entry_ids()
    return [
        (plain(stored), *(half.tobytes() for half in memory.embeddings(stored.entry_id)))
        for stored in memory.get_many(ids, thumbnails=True)
    ]


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


@pytest.fixture
def exported(open_memory: OpenMemory, directory: Path, tmp_path: Path, form: str) -> Path:
    """Return an export of a memory with entries 1 to 5."""
    fill(open_memory()).close()
    export(directory, tmp_path / "exported", form)
    return tmp_path / "exported"


class TestTheRoundTrip:
    @settings(
        max_examples=60, deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    @given(st.lists(entries, max_size=5), st.integers(0, 2**32 - 1))
    def test_keeps_every_bit_of_every_entry(
        self, form: str, some: list[NewEntry], seed: int
    ) -> None:
        scenes, texts = (unit_vectors(len(some), DIM, seed + i) for i in (0, 1))
        with tempfile.TemporaryDirectory() as name:
            one, other, out = (Path(name) / n for n in ("one", "other", "out"))
            with Memory.open(one, fingerprint(DIM), durable=False) as memory:
                memory.add(some, scenes, texts)
                before = everything(memory)
            assert export(one, out, form) == len(some)
            with Memory.open(other, open_source(out).fingerprint, durable=False) as memory:
                load(memory, out)
                assert everything(memory) == before

    def test_of_more_entries_than_are_read_at_once_keeps_all_in_order(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path, form: str
    ) -> None:
        count = 5000
        memory = open_memory()
        memory.add(
            [NewEntry(f"do {n}", n) for n in range(count)],
            unit_vectors(count, DIM, 1), unit_vectors(count, DIM, 2),
        )  # fmt: skip
        before = everything(memory)
        memory.close()
        assert export(directory, tmp_path / "out", form) == count
        other = open_memory(directory=tmp_path / "other")
        load(other, tmp_path / "out")
        assert everything(other) == before

    def test_of_raw_embeddings_keeps_their_length(
        self, tmp_path: Path, open_memory: OpenMemory, directory: Path, form: str
    ) -> None:
        raw = fingerprint(DIM, normalized=False)
        vectors = unit(np.random.default_rng(0).standard_normal((1, DIM))) * np.float32(7)
        open_memory(fingerprint=raw).add([NewEntry("do", 1)], vectors, vectors)
        open_memory(fingerprint=raw).close()
        export(directory, tmp_path / "out", form)
        other = open_memory(directory=tmp_path / "other", fingerprint=raw)
        load(other, tmp_path / "out")
        np.testing.assert_array_equal(other.embeddings(1)[0], vectors[0])


class TestTheExport:
    def test_that_exists_already_is_refused_and_left_alone(
        self, exported: Path, directory: Path, form: str
    ) -> None:
        before = sorted(exported.parent.rglob("*"))
        with pytest.raises(InvalidInputError, match="out: expected a path that does not exist"):
            export(directory, exported, form)
        assert sorted(exported.parent.rglob("*")) == before

    def test_into_no_folder_is_refused(self, exported: Path, directory: Path, form: str) -> None:
        with pytest.raises(InvalidInputError, match="parent folder"):
            export(directory, exported / "a" / "b" / "c", form)

    def test_of_a_damaged_memory_leaves_nothing_behind(
        self, exported: Path, directory: Path, form: str
    ) -> None:
        change(directory, "UPDATE entries SET stamp_ns = 0 WHERE entry_id = 4")
        before = sorted(exported.parent.iterdir())
        with pytest.raises(MemoryFormatError, match="entry 4 differs"):
            export(directory, exported.with_name("second"), form)
        assert sorted(exported.parent.iterdir()) == before

    def test_that_is_interrupted_leaves_nothing_behind(
        self, exported: Path, directory: Path, form: str
    ) -> None:
        before = sorted(exported.parent.iterdir())

        def interrupt(doing: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with open_contents(directory) as contents, pytest.raises(KeyboardInterrupt):
            FORMATS[form](contents, exported.with_name("second"), interrupt)  # type: ignore[call-arg]  # both take it
        assert sorted(exported.parent.iterdir()) == before


class TestTheParquetFile:
    def test_is_what_other_programs_read(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        pq = pytest.importorskip("pyarrow.parquet")
        fill(open_memory()).close()
        export(directory, tmp_path / "entries.parquet", "parquet")
        table = pq.read_table(tmp_path / "entries.parquet")
        assert (
            str(table.schema.field("scene_embedding").type)
            == f"fixed_size_list<element: float>[{DIM}]"
        )
        row = table.slice(1, 1).to_pylist()[0]
        wanted = entry(2)
        assert (row["entry_id"], row["instruction"], row["outcome"]) == (2, "拿起 2", "success")
        assert (row["tags"], dict(row["metadata"])) == (list(wanted.tags), dict(wanted.metadata))
        assert row["thumbnail"] == wanted.thumbnail
        np.testing.assert_array_equal(row["scene_embedding"], unit_vectors(5, DIM, 1)[1])
        said = json.loads(table.schema.metadata[b"vla_retrieval.fingerprint"])
        assert said["model"] == "double"

    def test_is_written_in_groups_that_fit_into_ram(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        pq = pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr("vla_retrieval.transfer.parquet._ROWS_PER_GROUP", 256)
        fill(open_memory(), 600).close()
        export(directory, tmp_path / "out", "parquet")
        assert pq.ParquetFile(tmp_path / "out").metadata.num_row_groups == 3

    def test_that_another_program_wrote_anew_is_imported(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        before = everything(fill(open_memory()))
        open_memory().close()
        export(directory, tmp_path / "out", "parquet")
        table = pq.read_table(tmp_path / "out")
        lists = table["scene_embedding"].cast(pa.list_(pa.float64()))
        names = table.schema.names[::-1]
        table = table.set_column(names[::-1].index("scene_embedding"), "scene_embedding", lists)
        pq.write_table(table.select(names).append_column("mine", [range(5)]), tmp_path / "anew")
        other = open_memory(directory=tmp_path / "other")
        load(other, tmp_path / "anew")
        assert everything(other) == before

    def test_without_pyarrow_says_what_to_install(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        fill(open_memory()).close()
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(RetrievalError, match=r"pip install pyarrow.*--format directory"):
            export(directory, tmp_path / "out", "parquet")


class TestTheImport:
    def test_gives_new_ids_and_says_which(self, exported: Path, open_memory: OpenMemory) -> None:
        memory = open_memory()
        memory.remove([2])
        assert load(memory, exported) == {1: 6, 2: 7, 3: 8, 4: 9, 5: 10}
        assert memory.get(7).instruction == "拿起 2"

    def test_of_another_encoder_is_refused_with_both_sides(
        self, exported: Path, open_memory: OpenMemory, tmp_path: Path
    ) -> None:
        with open_memory(directory=tmp_path / "o", fingerprint=fingerprint(DIM, model="other")):
            pass
        with pytest.raises(MemoryMismatchError, match=r"(?s)'double'.*'other'.*memory reembed"):
            open_memory(directory=tmp_path / "o", fingerprint=open_source(exported).fingerprint)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"hello" * 100])
    def test_of_a_file_that_is_no_export_is_refused(self, tmp_path: Path, content: bytes) -> None:
        pytest.importorskip("pyarrow")
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(InvalidInputError, match="a Parquet file of `memory export`"):
            open_source(tmp_path / "file")

    def test_of_any_parquet_file_says_what_it_lacks(self, tmp_path: Path) -> None:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"a": [1]}), tmp_path / "file")
        with pytest.raises(InvalidInputError, match=r"without vla_retrieval\.fingerprint"):
            open_source(tmp_path / "file")

    def test_of_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="where nothing is"):
            open_source(tmp_path / "absent")

    def test_that_stops_has_told_of_all_that_is_stored(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        fill(open_memory(), 600).close()
        export(directory, tmp_path / "out", "directory")
        path = tmp_path / "out" / "entries.jsonl"
        lines = path.read_bytes().split(b"\n")
        lines[400] = b'{"entry_id": 401}'
        path.write_bytes(b"\n".join(lines))
        other = open_memory(directory=tmp_path / "other")
        told: list[int] = []
        with pytest.raises(InvalidInputError, match=r"entries\.jsonl, line 401"):
            import_entries(
                other, open_source(tmp_path / "out").batches(), lambda old, new: told.extend(new)
            )
        assert told == other.entry_ids() == list(range(1, 257))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("stamp_ns", 1.5), ("stamp_ns", "1"), ("instruction", ""), ("instruction", 7),
            ("outcome", "won"), ("tags", [1]), ("tags", 1), ("tags", "cup"), ("pinned", "no"),
            ("metadata", {"a": 1}), ("entry_id", True), ("stamp_ns", True),
            ("action", {"space": "a", "shape": [-1, -1], "values": [1]}),
            ("action", {"space": "a", "shape": [2**32, 0], "values": []}),
            ("action", {"space": "a", "shape": [2], "values": [1]}),
            ("action", {"space": "a", "shape": [1], "values": ["x"]}),
            ("action", {"space": "a", "shape": [1], "values": [10**400]}),
            ("camera_pose", {"frame_id": "map"}), ("frame_id", None),
            ("camera_pose", {"frame_id": "map", "stamp_ns": 0, "position": [10**400, 0, 0],
                             "orientation": [0, 0, 0, 1]}),
        ],
    )  # fmt: skip
    def test_of_a_field_that_is_wrong_is_refused(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path, field: str, value: object
    ) -> None:
        fill(open_memory(), 1).close()
        export(directory, tmp_path / "out", "directory")
        path = tmp_path / "out" / "entries.jsonl"
        path.write_text(json.dumps({**json.loads(path.read_text()), field: value}) + "\n")
        other = open_memory(directory=tmp_path / "other")
        with pytest.raises(InvalidInputError):
            load(other, tmp_path / "out")
        assert other.entry_ids() == []

    @pytest.mark.parametrize("name", ["entries.jsonl", "memory.json"])
    def test_of_json_nested_without_end_is_refused(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path, name: str
    ) -> None:
        fill(open_memory(), 1).close()
        export(directory, tmp_path / "out", "directory")
        (tmp_path / "out" / name).write_text("[" * 200_000)
        with pytest.raises(InvalidInputError, match=r"as an export|a folder of"):
            load(open_memory(directory=tmp_path / "other"), tmp_path / "out")

    def test_of_an_encoder_that_is_described_in_other_types_is_refused(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        fill(open_memory(), 1).close()
        export(directory, tmp_path / "out", "directory")
        path = tmp_path / "out" / "memory.json"
        about = json.loads(path.read_text())
        about["fingerprint"]["weights"] = 5
        path.write_text(json.dumps(about))
        with pytest.raises(InvalidInputError, match="weights: expected str, got 5"):
            open_source(tmp_path / "out")

    def test_of_another_number_of_lines_is_refused(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        fill(open_memory()).close()
        export(directory, tmp_path / "out", "directory")
        path = tmp_path / "out" / "entries.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        for wrong in (lines[:3], [*lines, lines[0]]):
            path.write_bytes(b"".join(wrong))
            with pytest.raises(InvalidInputError, match=r"expected 5 lines, as memory\.json says"):
                load(open_memory(directory=tmp_path / f"other{len(wrong)}"), tmp_path / "out")


class TestAnExportThatOthersChanged:
    @pytest.fixture
    def folder(self, open_memory: OpenMemory, directory: Path, tmp_path: Path) -> Path:
        fill(open_memory()).close()
        export(directory, tmp_path / "out", "directory")
        return tmp_path / "out"

    @pytest.mark.parametrize(
        "header",
        ["{", "'''", f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 8)}}",
         "{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 8)}"],
        ids=["cut off", "text without end", "longer than any disk", "shorter than nothing"],
    )  # fmt: skip
    def test_has_an_array_with_a_false_header_and_is_refused(
        self, folder: Path, header: str
    ) -> None:
        text = header.ljust(117).encode() + b"\n"
        (folder / "scenes.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)
        )
        with pytest.raises(InvalidInputError, match="a folder of `memory export`"):
            open_source(folder)

    def test_has_an_archive_in_place_of_an_array_and_is_refused(self, folder: Path) -> None:
        with (folder / "scenes.npy").open("wb") as file:
            np.savez(file, a=np.zeros(3))
        with pytest.raises(InvalidInputError, match="a folder of `memory export`"):
            open_source(folder)

    @pytest.mark.parametrize("count", ["Infinity", "5.7", "true", '"5"'])
    def test_has_a_count_that_is_none_and_is_refused(self, folder: Path, count: str) -> None:
        path = folder / "memory.json"
        path.write_text(path.read_text().replace('"entries": 5', f'"entries": {count}'))
        with pytest.raises(InvalidInputError, match="expected a whole number"):
            open_source(folder)

    def test_has_lost_its_lines_and_says_so(self, folder: Path) -> None:
        source = open_source(folder)
        (folder / "entries.jsonl").unlink()
        with pytest.raises(StorageError, match=r"cannot read .*entries\.jsonl: No such file"):
            list(source.batches())

    def test_has_a_path_that_cannot_be_looked_at_and_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="name too long"):
            open_source(tmp_path / ("x" * 300))

    @pytest.mark.parametrize("wrong", ["text", "format", "two columns"])
    def test_is_a_parquet_file_that_is_no_longer_whole_and_is_refused(
        self, wrong: str, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        fill(open_memory(), 1).close()
        export(directory, tmp_path / "out", "parquet")
        table = pq.read_table(tmp_path / "out")
        if wrong == "text":
            bytes_of = pa.array([b"\xff"], pa.binary()).buffers()
            no_text = pa.Array.from_buffers(pa.string(), 1, bytes_of)
            place = table.schema.get_field_index("instruction")
            table = table.set_column(place, "instruction", no_text)
        elif wrong == "format":
            said = {**table.schema.metadata, b"vla_retrieval.format": b"\xff"}
            table = table.replace_schema_metadata(said)
        else:
            table = table.append_column("instruction", table["instruction"])
        pq.write_table(table, tmp_path / "changed")
        with pytest.raises(InvalidInputError, match=r"row|format|two of them"):
            load(open_memory(directory=tmp_path / "other"), tmp_path / "changed")

    def test_is_a_parquet_file_with_a_null_and_the_column_is_named(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        fill(open_memory()).close()
        export(directory, tmp_path / "out", "parquet")
        table = pq.read_table(tmp_path / "out")
        place = table.schema.get_field_index("entry_id")
        ids = pa.array([1, 2, None, 4, 5], pa.int64())
        pq.write_table(table.set_column(place, "entry_id", ids), tmp_path / "changed")
        other = open_memory(directory=tmp_path / "other")
        with pytest.raises(InvalidInputError, match="nulls in the column entry_id from row 0"):
            load(other, tmp_path / "changed")
