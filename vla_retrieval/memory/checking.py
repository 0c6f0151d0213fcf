"""Whether the database, the snapshot of the index and the thumbnails of a memory agree.

Nothing stops it: what cannot be read is named, and the rest is looked at. Everything that has a
checksum is compared with it. What has none are counts (pinned, merged, uses), of which only
impossible values are found, and that an entry once had a thumbnail.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from vla_retrieval.errors import EntryNotFoundError, MemoryFormatError
from vla_retrieval.memory import calibration_store, counters, schema
from vla_retrieval.memory import entries as store
from vla_retrieval.memory.checking_snapshot import SnapshotCheck
from vla_retrieval.memory.contents import Contents, Progress, silent
from vla_retrieval.memory.failures import SQLITE_ERRORS
from vla_retrieval.memory.findings import Finding, Part, Report
from vla_retrieval.memory.write_ahead import lost_commits
from vla_retrieval.thumbnails import why_no_picture
from vla_retrieval.types import Entry

CHILD_TABLES = ("thumbnails", "usage")
"""Tables whose rows belong to an entry."""

_AT_ONCE = 256
_VERSIONS = slice(18, 20)  # of the header: of who may write and of who may read the file
_WRITE_AHEAD = b"\x02\x02"
_MOST_OF_SQLITE = 100  # complaints of SQLite's own check; one broken page brings many

# The last one where rows are out of their order: a walk comes past them, and no search does.
_UNREADABLE = (MemoryFormatError, *SQLITE_ERRORS, EntryNotFoundError)

_Answer = TypeVar("_Answer")


def check(contents: Contents, progress: Progress = silent) -> Report:
    """Look at everything in a memory's directory.

    Args:
        contents: The open directory.
        progress: Told how far it is.

    Returns:
        What is wrong, and what is worth a note.

    Raises:
        StorageError: If the disk refuses.
    """
    with contents.database.reading() as connection:
        return _Check(contents, connection, progress).run()


class _Check:
    """One run over one committed state."""

    def __init__(
        self, contents: Contents, connection: sqlite3.Connection, progress: Progress
    ) -> None:
        self._contents = contents
        self._connection = connection
        self._progress = progress
        self._path = contents.database.path
        self._findings: list[Finding] = []
        self._thumbnails = 0

    def run(self) -> Report:
        self._progress("the database file", 0, 1)
        ids: list[int] = []
        for look in (
            self._check_log, self._check_file, self._check_tables, self._check_counts,
            self._check_calibration, self._check_orphans, lambda: ids.extend(self._ids()),
        ):  # fmt: skip
            try:
                look()
            except SQLITE_ERRORS as error:
                self._say(Part.DATABASE, f"cannot be read: {error}")
        self._progress("the database file", 1, 1)
        snapshot = SnapshotCheck(self._contents, self._connection)
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            self._check_entries(some, snapshot)
            self._progress("entries", start + len(some), len(ids))
        self._findings += snapshot.finish(np.array(ids, dtype=np.int64))
        return Report(len(ids), self._thumbnails, tuple(self._findings))

    def _say(self, part: Part, text: str, entry_id: int | None = None, table: str = "") -> None:
        self._findings.append(Finding(part, text, entry_id, table))

    def _ids(self) -> list[int]:
        """Return the ids of all entries, ascending, each once: also where rows are in disorder."""
        ids: list[int] = np.unique(store.all_ids(self._connection)).tolist()
        return ids

    def _check_log(self) -> None:
        lost = lost_commits(self._contents.directory)
        if lost is not None:
            self._say(Part.LOG, str(lost))

    def _check_file(self) -> None:
        """Let SQLite compare its pages, rows and indexes, and look at what it does not compare."""
        versions = self._contents.database.header()[_VERSIONS]
        if versions != _WRITE_AHEAD:  # SQLite would only read it, or not even that
            self._say(Part.DATABASE, f"expected versions 2 and 2 in its header, got {[*versions]}")
        found = self._connection.execute(f"PRAGMA integrity_check({_MOST_OF_SQLITE})")
        for text in {text for (text,) in found} - {"ok"}:
            self._say(Part.DATABASE, text)

    def _check_tables(self) -> None:
        """Else a column whose name has changed makes each entry look damaged, and be dropped."""
        for text in schema.strange_tables(self._connection):
            self._say(Part.DATABASE, text)

    def _check_counts(self) -> None:
        # As bytes: a name in which a flipped bit left no Unicode must not keep the rest from sight.
        query = "SELECT CAST(name AS BLOB), value FROM counters"
        for content, value in self._connection.execute(query):
            name = str(content or b"", "utf-8", "replace")
            if name not in counters.NAMES or not isinstance(value, int) or value < 0:
                names = sorted(counters.NAMES)
                self._say(Part.COUNTERS, f"expected counts of {names}, got {name!r} {value}")
        query = (
            "SELECT entry_id, pinned, merged FROM entries WHERE pinned NOT IN (0, 1) OR merged < 0"
        )
        for entry_id, pinned, merged in self._connection.execute(query):
            self._say(
                Part.ENTRY, "expected pinned to be 0 or 1 and merged 0 or more, got"
                f" {pinned} and {merged}", entry_id,
            )  # fmt: skip
        query = "SELECT entry_id, uses FROM usage WHERE uses < 0"
        for entry_id, uses in self._connection.execute(query):
            self._say(Part.ENTRY, f"expected uses to be 0 or more, got {uses}", entry_id)

    def _check_calibration(self) -> None:
        try:
            calibration_store.read(self._connection)
        except MemoryFormatError as error:
            self._say(Part.CALIBRATION, str(error))

    def _check_orphans(self) -> None:
        for table in CHILD_TABLES:
            query = (
                f"SELECT DISTINCT entry_id FROM {table}"
                " WHERE entry_id NOT IN (SELECT entry_id FROM entries)"
            )
            for (entry_id,) in self._connection.execute(query):
                self._say(
                    Part.ORPHAN, f"the table {table} has rows of an entry that is not there",
                    entry_id, table,
                )  # fmt: skip

    def _check_entries(self, ids: Sequence[int], snapshot: SnapshotCheck) -> None:
        entries = self._entries(ids)
        scenes, instructions = self._embeddings(ids)
        self._check_thumbnails(ids)
        snapshot.compare(entries, scenes, instructions)

    def _entries(self, ids: Sequence[int]) -> list[Entry]:
        """Return the sound ones."""

        def read(some: Sequence[int]) -> list[Entry]:
            return store.read(self._connection, some, thumbnails=False, path=self._path)

        sound: list[Entry] = []
        for entry_id, found in _tried(read, ids):
            if isinstance(found, list):
                sound += found
            elif isinstance(found, MemoryFormatError):
                self._say(
                    Part.ENTRY, "its row, tags and metadata differ from their checksum", entry_id
                )
            else:
                self._say(Part.ENTRY, f"cannot be read: {found}", entry_id)
        return sound

    def _embeddings(self, ids: Sequence[int]) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Return the sound scenes and instructions, by entry."""
        columns = "scene_embedding, scene_checksum, instruction_embedding, instruction_checksum"
        sound: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        for entry_id, row in self._rows(Part.SCENE, "entries", columns, ids):
            halves = (Part.SCENE, *row[:2]), (Part.INSTRUCTION, *row[2:])
            for (part, content, checksum), kept in zip(halves, sound, strict=True):
                dim = self._contents.fingerprint.dim
                size = len(content) if isinstance(content, bytes) else repr(content)
                if size != 4 * dim:
                    self._say(
                        part, f"expected {4 * dim} bytes for {dim} numbers, got {size}", entry_id
                    )
                elif zlib.crc32(content) != checksum:
                    self._say(part, "differs from its checksum", entry_id)
                else:
                    kept[entry_id] = content
        return sound

    def _check_thumbnails(self, ids: Sequence[int]) -> None:
        for entry_id, (jpeg, checksum) in self._rows(
            Part.THUMBNAIL, "thumbnails", "jpeg, checksum", ids
        ):
            self._thumbnails += 1
            if not isinstance(jpeg, bytes) or zlib.crc32(jpeg) != checksum:
                self._say(Part.THUMBNAIL, "differs from its checksum", entry_id)
            elif why := why_no_picture(jpeg):
                self._say(Part.THUMBNAIL, f"is no JPEG picture: {why}", entry_id)

    def _rows(
        self, part: Part, table: str, columns: str, ids: Sequence[int]
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the rows of entries in a table that can be read, by entry; name the others."""

        def read(some: Sequence[int]) -> list[tuple[Any, ...]]:
            query = f"SELECT entry_id, {columns} FROM {table} WHERE entry_id {_between(some)}"
            return self._connection.execute(query).fetchall()

        wanted = set(ids)
        for entry_id, rows in _tried(read, ids):
            if isinstance(rows, list):
                yield from ((row[0], row[1:]) for row in rows if row[0] in wanted)
            else:
                self._say(part, f"cannot be read: {rows}", entry_id)


def _between(ids: Sequence[int]) -> str:
    return f"BETWEEN {int(ids[0])} AND {int(ids[-1])} ORDER BY entry_id"


def _tried(
    read: Callable[[Sequence[int]], _Answer], ids: Sequence[int]
) -> Iterator[tuple[int, _Answer | Exception]]:
    """Yield what a function reads for all ids at once, or where that fails for each alone.

    Yields:
        The first id, and what was read or, for one id, why it was not.
    """
    try:
        yield ids[0], read(ids)
        return
    except _UNREADABLE:
        pass
    for entry_id in ids:
        try:
            answer = read([entry_id])
        except _UNREADABLE as error:
            yield entry_id, error
        else:
            yield entry_id, answer
