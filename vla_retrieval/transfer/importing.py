"""Entries from an export into a memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import Memory
from vla_retrieval.transfer.folder import FolderSource
from vla_retrieval.transfer.parquet import ParquetSource
from vla_retrieval.transfer.records import Batch, Source, unreadable

Stored = Callable[[Sequence[int], Sequence[int]], None]
"""Told, after each commit, the ids of entries in the export and their ids in the memory."""


def open_source(path: Path) -> Source:
    """Return what reads an export: a Parquet file, or a folder.

    Raises:
        InvalidInputError: If it is neither.
        StorageError: If it cannot be read, or needs pyarrow and that is not installed.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise unreadable(path, error) from error
    if is_folder:
        return FolderSource(path)
    if is_file:
        return ParquetSource(path)
    raise InvalidInputError(
        "source", "a Parquet file or a folder of `memory export`", f"{path}, where nothing is"
    )


def begin(source: Source) -> Iterable[Batch]:
    """Return a source's batches, the first of which is read at once.

    So an export that cannot be read is refused before a new memory is made for it.

    Raises:
        InvalidInputError: If an entry of the first batch is not as it should be.
        StorageError: If the source cannot be read.
    """
    batches = source.batches()
    return itertools.chain(list(itertools.islice(batches, 1)), batches)


def import_entries(memory: Memory, batches: Iterable[Batch], stored: Stored) -> None:
    """Store all entries of an export, under new ids, some at a time.

    Each batch is committed as a whole, and ``stored`` is told of it. If this raises, the batches
    that it was told of are in the memory and nothing else is.

    Args:
        memory: Opened with the source's fingerprint.
        batches: Of the source.
        stored: Told of each batch.

    Raises:
        InvalidInputError: If an entry of the export is not as it should be.
        StorageError: If the source cannot be read or the memory not be written.
    """
    for batch in batches:
        ids = memory.add(batch.entries, batch.scenes, batch.instructions)
        stored(batch.old_ids, ids)
