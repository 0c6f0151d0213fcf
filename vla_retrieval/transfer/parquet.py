"""A memory as one Parquet file, for pandas, DuckDB, datasets and the like.

One row per entry. The embeddings are fixed-size lists of float32; the file's own metadata names
the encoder that made them. Where a head was given, its packed binary codes are two more columns.
It is written and read in row groups, so that a million entries do not have to fit into RAM.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.memory.contents import Contents, Progress, silent
from vla_retrieval.memory.entries import Portion
from vla_retrieval.projection import Head
from vla_retrieval.publishing import published
from vla_retrieval.transfer.coding import check_codes, codes_of
from vla_retrieval.transfer.records import (
    FORMAT,
    Batch,
    check_format,
    fingerprint_from_text,
    fingerprint_to_text,
    from_record,
    to_record,
)
from vla_retrieval.types import Embeddings, Fingerprint

_FORMAT_KEY = b"vla_retrieval.format"
_FINGERPRINT_KEY = b"vla_retrieval.fingerprint"
_HEAD_KEY = b"vla_retrieval.head"
_ROWS_PER_GROUP = 2048  # 8 MB of embeddings at 512 dimensions, and as many thumbnails
_ROWS_AT_ONCE = 256
_REPEATED = ["frame_id", "episode_id", "outcome"]  # few values each: worth a dictionary
_MAY_BE_NULL = {"action", "camera_pose", "thumbnail"}


def export_parquet(
    contents: Contents, target: Path, progress: Progress = silent, head: Head | None = None
) -> int:
    """Write all entries of a memory into one file, and return how many.

    Args:
        contents: The open directory of the memory.
        target: The file; it must not exist. It appears when it is whole.
        progress: Told how far it is.
        head: Whose codes are written as well, or None.

    Raises:
        HeadMismatchError: If the head was made for another encoder.
        InvalidInputError: If the target exists, or its folder does not, or the head has no codes.
        MemoryFormatError: If an entry is damaged; nothing is written then.
        StorageError: If pyarrow is not installed, or the disk refuses.
    """
    pa, pq = _pyarrow()
    check_codes(head, contents)
    schema = _schema(pa, contents.fingerprint)
    if head is not None:
        schema = _with_codes(pa, schema, head)
    total, done = contents.count(), 0
    waiting: list[Any] = []
    with (
        published(target) as partial,
        pq.ParquetWriter(
            partial, schema, compression="zstd", use_dictionary=_REPEATED
        ) as writer,
    ):  # fmt: skip
        for portion in contents.portions():
            waiting.append(_to_table(pa, portion, schema, head))
            done += len(portion.entries)
            if sum(table.num_rows for table in waiting) >= _ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_PER_GROUP)
                waiting.clear()
            progress("entries", done, total)
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_PER_GROUP)
    return done


class ParquetSource:
    """Reads what ``export_parquet`` wrote, or what something else made of it with its columns.

    Args:
        path: Of the file.

    Raises:
        InvalidInputError: If it is no such file.
        StorageError: If pyarrow is not installed, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        """Read its metadata."""
        self._pa, pq = _pyarrow()
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except (self._pa.ArrowException, OSError) as error:
            raise self._not_ours(str(error)) from error
        said = self._file.schema_arrow.metadata or {}
        if _FINGERPRINT_KEY not in said:
            raise self._not_ours(f"one without {_FINGERPRINT_KEY.decode()} in its metadata")
        check_format(said.get(_FORMAT_KEY, b"").decode(errors="replace"), str(path))
        self.fingerprint = fingerprint_from_text(said[_FINGERPRINT_KEY], str(path))
        self.count = int(self._file.metadata.num_rows)
        self._schema = _schema(self._pa, self.fingerprint)
        names = self._file.schema_arrow.names
        wrong = [name for name in self._schema.names if names.count(name) != 1]
        if wrong:
            raise self._not_ours(f"one without the columns {', '.join(wrong)}, or with two of them")

    def batches(self) -> Iterator[Batch]:
        """Yield all entries; see ``Source``."""
        row = 0
        try:
            for found in self._file.iter_batches(_ROWS_AT_ONCE, columns=self._schema.names):
                table = self._pa.Table.from_batches([found]).select(self._schema.names)
                yield self._to_batch(table.cast(self._schema).combine_chunks(), row)
                row += table.num_rows
        except (self._pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._not_ours(f"one whose rows from {row} on cannot be read: {error}") from error

    def _to_batch(self, table: Any, row: int) -> Batch:
        for name in table.schema.names:
            if name not in _MAY_BE_NULL and table[name].null_count:
                raise self._not_ours(f"one with nulls in the column {name} from row {row} on")
        halves = [self._vectors(table[f"{half}_embedding"]) for half in ("scene", "instruction")]
        records = table.drop(["scene_embedding", "instruction_embedding"]).to_pylist()
        entries = [
            from_record(record, record["thumbnail"] or b"", f"{self._path}, row {row + i}")
            for i, record in enumerate(records)
        ]
        return Batch([record["entry_id"] for record in records], entries, *halves)

    def _vectors(self, column: Any) -> Embeddings:
        flat = column.chunk(0).flatten() if column.num_chunks else self._pa.array([], "float32")
        vectors: Embeddings = flat.to_numpy(zero_copy_only=False).astype(np.float32)
        return vectors.reshape(-1, self.fingerprint.dim)

    def _not_ours(self, got: str) -> InvalidInputError:
        return InvalidInputError("source", "a Parquet file of `memory export`", f"{got}")


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet, which nothing else needs.

    Raises:
        StorageError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise StorageError(
            f"Parquet needs pyarrow, and importing it failed: {error}. Install it: pip install"
            " pyarrow. Or take `--format directory`, which needs nothing."
        ) from error
    return pyarrow, pyarrow.parquet


def _schema(pa: Any, fingerprint: Fingerprint) -> Any:
    vector = pa.list_(pa.float32(), fingerprint.dim)
    text, whole, number = pa.string(), pa.int64(), pa.float64()
    pose = [
        ("frame_id", text), ("stamp_ns", whole),
        ("position", pa.list_(number)), ("orientation", pa.list_(number)),
    ]  # fmt: skip
    action = [("space", text), ("shape", pa.list_(whole)), ("values", pa.list_(pa.float32()))]
    columns = {
        "entry_id": whole, "instruction": text, "stamp_ns": whole, "frame_id": text,
        "episode_id": text, "outcome": text, "action": pa.struct(action),
        "camera_pose": pa.struct(pose), "tags": pa.list_(text), "metadata": pa.map_(text, text),
        "pinned": pa.bool_(), "merged": whole, "thumbnail": pa.binary(),
        "scene_embedding": vector, "instruction_embedding": vector,
    }  # fmt: skip
    said = {
        _FORMAT_KEY: str(FORMAT).encode(),
        _FINGERPRINT_KEY: fingerprint_to_text(fingerprint).encode(),
    }
    return pa.schema(list(columns.items()), metadata=said)


def _with_codes(pa: Any, schema: Any, head: Head) -> Any:
    for half in ("scene", "instruction"):
        schema = schema.append(pa.field(f"{half}_code", pa.binary(head.bits // 8)))
    return schema.with_metadata({**schema.metadata, _HEAD_KEY: head.digest.encode()})


def _to_table(pa: Any, portion: Portion, schema: Any, head: Head | None) -> Any:
    records = [
        {
            **to_record(entry),
            "metadata": list(entry.metadata.items()),
            "thumbnail": entry.thumbnail or None,
        }
        for entry in portion.entries
    ]
    columns = [
        pa.array([record[field.name] for record in records], field.type)
        for field in schema
        if not field.name.endswith(("_embedding", "_code"))
    ]
    for vectors in (portion.scenes, portion.instructions):
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    if head is not None:
        columns += [
            pa.array([code.tobytes() for code in codes], pa.binary(head.bits // 8))
            for codes in codes_of(portion, head)
        ]
    return pa.table(columns, schema=schema)
