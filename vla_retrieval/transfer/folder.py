"""A memory as a folder that people can look at, and numpy and a text editor can read."""

from __future__ import annotations

import itertools
import json
import tokenize
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.memory.contents import Contents, Progress, silent
from vla_retrieval.projection import Head
from vla_retrieval.publishing import published
from vla_retrieval.transfer.coding import check_codes, codes_of
from vla_retrieval.transfer.page import PageWriter
from vla_retrieval.transfer.records import (
    FORMAT,
    Batch,
    Record,
    check_format,
    fingerprint_from_text,
    fingerprint_to_text,
    from_record,
    to_record,
    unreadable,
    whole,
)
from vla_retrieval.types import Embeddings

_ENTRIES, _ABOUT = "entries.jsonl", "memory.json"
_SCENES, _INSTRUCTIONS = "scenes.npy", "instructions.npy"
_CODES = ("scene_codes.npy", "instruction_codes.npy")
_THUMBNAILS = "thumbnails"
_ROWS_AT_ONCE = 256
# TokenError and OverflowError are NumPy's for a header that is no Python, or of an endless shape.
_NOT_OURS = (
    KeyError, TypeError, ValueError, EOFError, tokenize.TokenError, OverflowError, RecursionError,
)  # fmt: skip
_README = """\
The entries of a robot's memory, written by `memory export`.

index.html        look at it: pictures and instructions
entries.jsonl     one entry per line, as JSON
thumbnails/       <entry_id>.jpg, for those entries that have one
scenes.npy        float32, one row per line of entries.jsonl: the embedding of the scene
instructions.npy  the same of the instruction
*_codes.npy       where a head was given: uint8, its packed binary codes of the same rows
fonts/            Chinese for index.html, where an instruction needs it and a machine has none
memory.json       the encoder that made the embeddings, and how many entries there are

`memory import DIR THIS_FOLDER` puts them into a memory again.
"""


def export_folder(
    contents: Contents, target: Path, progress: Progress = silent, head: Head | None = None
) -> int:
    """Write all entries of a memory into a folder, and return how many.

    Args:
        contents: The open directory of the memory.
        target: The folder; it must not exist. It appears when it is whole.
        progress: Told how far it is.
        head: Whose codes are written as well, or None.

    Raises:
        HeadMismatchError: If the head was made for another encoder.
        InvalidInputError: If the target exists, or its folder does not, or the head has no codes.
        MemoryFormatError: If an entry is damaged; nothing is written then.
        StorageError: If the disk refuses.
    """
    check_codes(head, contents)
    total, done = contents.count(), 0
    with published(target) as partial, ExitStack() as opened:
        (partial / _THUMBNAILS).mkdir(parents=True)
        (partial / "README.txt").write_text(_README, encoding="utf-8")
        (partial / _ABOUT).write_text(_about(contents, total, head), encoding="utf-8")
        lines = opened.enter_context((partial / _ENTRIES).open("w", encoding="utf-8", newline="\n"))
        pages = opened.enter_context(PageWriter(partial, contents.fingerprint, total))
        shape = (total, contents.fingerprint.dim)
        halves = [_empty_array(partial / name, shape) for name in (_SCENES, _INSTRUCTIONS)]
        bits = 0 if head is None else head.bits
        codes = [_empty_array(partial / name, (total, bits // 8), "|u1") for name in _CODES if bits]
        for portion in contents.portions():
            rows = slice(done, done + len(portion.entries))
            for half, vectors in zip(halves, (portion.scenes, portion.instructions), strict=True):
                half[rows] = vectors
            if head is not None:
                for half, made in zip(codes, codes_of(portion, head), strict=True):
                    half[rows] = made
            for entry in portion.entries:
                name = f"{_THUMBNAILS}/{entry.entry_id}.jpg" if entry.thumbnail else None
                if name:
                    (partial / name).write_bytes(entry.thumbnail)
                record = {**to_record(entry), "thumbnail": name}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                pages.add(entry, name)
            done = rows.stop
            progress("entries", done, total)
    return done


class FolderSource:
    """Reads what ``export_folder`` wrote.

    Args:
        path: Of the folder.

    Raises:
        InvalidInputError: If it is no such folder.
        StorageError: If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        """Read what it says about itself, and map the embeddings."""
        self._path = path
        names = (_ABOUT, _ENTRIES, _SCENES, _INSTRUCTIONS)
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise InvalidInputError(
                "source", "a folder of `memory export`", f"{path}, which lacks {', '.join(missing)}"
            )
        try:
            about = json.loads((path / _ABOUT).read_bytes())
            check_format(about["format"], str(path / _ABOUT))
            self.fingerprint = fingerprint_from_text(
                json.dumps(about["fingerprint"]), str(path / _ABOUT)
            )
            self.count = whole(about["entries"])
            self._halves = [self._array(path / name) for name in names[2:]]
        except _NOT_OURS as error:
            raise InvalidInputError(
                "source", "a folder of `memory export`", f"{path}: {error!r}"
            ) from error
        except OSError as error:
            raise unreadable(path, error) from error

    def batches(self) -> Iterator[Batch]:
        """Yield all entries; see ``Source``."""
        start = 0
        for some in self._lines():
            stop = start + len(some)
            if stop > self.count:
                raise self._another_length(f"{stop} or more")
            records = [self._record(line, start + i) for i, line in enumerate(some, 1)]
            entries = [
                from_record(record, self._thumbnail(record), self._place(start + i))
                for i, record in enumerate(records, 1)
            ]
            scenes, instructions = (np.array(half[start:stop]) for half in self._halves)
            yield Batch([r["entry_id"] for r in records], entries, scenes, instructions)
            start = stop
        if start < self.count:
            raise self._another_length(str(start))

    def _lines(self) -> Iterator[list[bytes]]:
        path = self._path / _ENTRIES
        try:
            with path.open("rb") as lines:
                while some := list(itertools.islice(lines, _ROWS_AT_ONCE)):
                    yield some
        except OSError as error:
            raise unreadable(path, error) from error

    def _place(self, line: int) -> str:
        return f"{self._path / _ENTRIES}, line {line}"

    def _record(self, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "entry_id" not in record:
                raise ValueError("no entry with an entry_id")
            whole(record["entry_id"])
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInputError(
                self._place(number), "an entry as an export writes it", str(error)
            ) from error
        return record

    def _thumbnail(self, record: Record) -> bytes:
        # The name comes from the id and not from the record, which could name any file.
        if not record.get("thumbnail"):
            return b""
        path = self._path / _THUMBNAILS / f"{record['entry_id']}.jpg"
        try:
            return path.read_bytes()
        except OSError as error:
            raise StorageError(
                f"cannot read {path}: {error.strerror}. Export the memory again."
            ) from error

    def _array(self, path: Path) -> Embeddings:
        array = np.lib.format.open_memmap(path, mode="r")  # never an archive, never a pickle
        wanted = (self.count, self.fingerprint.dim)
        if array.shape != wanted or array.dtype != np.float32:
            raise InvalidInputError(
                str(path), f"float32 of shape {wanted}", f"{array.dtype} of shape {array.shape}"
            )
        found: Embeddings = array
        return found

    def _another_length(self, got: str) -> InvalidInputError:
        return InvalidInputError(
            str(self._path / _ENTRIES), f"{self.count} lines, as {_ABOUT} says", got
        )


def _about(contents: Contents, total: int, head: Head | None) -> str:
    about: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": json.loads(fingerprint_to_text(contents.fingerprint)),
        "entries": total,
    }
    if head is not None:
        about["codes"] = {"head": head.digest, "bits": head.bits}
    return json.dumps(about, ensure_ascii=False, indent=2) + "\n"


def _empty_array(path: Path, shape: tuple[int, int], dtype: str = "<f4") -> Any:
    """Return an array on disk; numpy cannot map one without bytes."""
    if 0 in shape:
        np.save(path, np.empty(shape, dtype))
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
