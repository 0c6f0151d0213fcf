"""Whether the snapshot of an index shows what the database holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import MemoryFormatError
from vla_retrieval.memory import counters, snapshot
from vla_retrieval.memory.columns import Columns, ColumnState, Rows, facts_of
from vla_retrieval.memory.contents import Contents
from vla_retrieval.memory.failures import SQLITE_ERRORS
from vla_retrieval.memory.findings import Finding, Part
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.names import SNAPSHOT_NAME
from vla_retrieval.memory.similarity import prepared
from vla_retrieval.types import Embeddings, Entry, Fingerprint, Modality

_FLOAT32 = np.dtype("<f4")


class SnapshotCheck:
    """Compares a snapshot with entries that come some at a time.

    A snapshot that is missing or behind is no error: the database is the truth, and opening a
    memory repairs it. What it does show has to be right.

    Args:
        contents: The open directory.
        connection: Sees the state of the database to compare with.
    """

    def __init__(self, contents: Contents, connection: sqlite3.Connection) -> None:
        """Read the snapshot, whole: it takes the RAM that opening the memory takes."""
        self._findings: list[Finding] = []
        self._index: Index | None = None
        self._behind = 0
        directory = contents.directory
        if (directory / snapshot.TEMPORARY_NAME).exists():
            self._note(f"{snapshot.TEMPORARY_NAME} is left of a write that was cut off")
        if not (directory / SNAPSHOT_NAME).exists():
            self._note("there is none; the next open builds the index from the database")
            return
        try:
            written = snapshot.format_of(directory)
            if written != snapshot.FORMAT:
                self._note(
                    f"it is of format {written}, and this version writes {snapshot.FORMAT}:"
                    " the next open builds the index from the database"
                )
                return
            similarity = snapshot.similarity_of(directory)
            compared = _compared(contents.fingerprint, snapshot.fingerprint_of(directory))
            restored = snapshot.read_compared(directory, compared, similarity)
        except snapshot.SnapshotError as error:
            say = self._note if isinstance(error.__cause__, PermissionError) else self._wrong
            say(f"{error}; the next open builds the index from the database")
            return
        try:
            marks = [
                counters.read(connection, n) for n in (counters.SNAPSHOT, counters.SNAPSHOT_BEFORE)
            ]
            self._behind = counters.sequence(connection) - restored.sequence
        except (MemoryFormatError, *SQLITE_ERRORS) as error:
            self._note(f"whether it is of this history cannot be told: {error}")
            return
        if restored.mark not in marks or self._behind < 0:
            self._note("it is of another history than the database, and is not used")
            return
        if self._behind:
            self._note(f"{self._behind} changes behind the database; the next open catches up")
        self._projected = bool(compared.head)
        if self._projected:
            self._note(
                f"its vectors were projected by the head {compared.head[:19]} and are not compared"
                " with the embeddings"
            )
        self._index = restored.index
        self._last = int(max(self._index.columns.entry_ids, default=0))
        self._columns = _empty_columns(self._index.columns)

    def compare(
        self, entries: Sequence[Entry], scenes: Mapping[int, bytes], texts: Mapping[int, bytes]
    ) -> None:
        """Compare sound entries and embeddings of the database, each ascending by id.

        Args:
            entries: Some.
            scenes: Their scene embeddings as stored, by id.
            texts: Their instruction embeddings as stored, by id.
        """
        if self._index is None:
            return
        held = set(self._held(self._index, [entry.entry_id for entry in entries]).tolist())
        known = [entry for entry in entries if entry.entry_id in held]
        self._columns.append([e.entry_id for e in known], [facts_of(e) for e in known])
        if self._projected:
            return
        for modality, stored in ((Modality.SCENE, scenes), (Modality.INSTRUCTION, texts)):
            ids = self._held(self._index, sorted(stored))
            rows = self._index.columns.rows_of(ids)
            content = b"".join(stored[i] for i in ids.tolist())
            vectors: Embeddings = np.frombuffer(content, dtype=_FLOAT32).astype(np.float32)
            vectors = prepared(self._index.similarity, vectors.reshape(len(ids), self._index.dim))
            same = self._index.halves[modality].vectors.same(rows, vectors)
            for entry_id in ids[~same].tolist():
                self._wrong(f"its {modality.value} vector is not that of its embedding", entry_id)

    def finish(self, ids: NDArray[np.int64]) -> list[Finding]:
        """Compare what is left, and return all findings.

        Args:
            ids: Of all entries in the database, ascending.
        """
        if self._index is None:
            return self._findings
        columns = self._index.columns
        held = columns.entry_ids[columns.alive]
        missing = np.setdiff1d(ids, held)
        # A commit that the snapshot does not show yet may have added ids above its last one.
        for entry_id in missing[(missing <= self._last) | (not self._behind)].tolist():
            self._wrong("it is in the database and not in the snapshot", entry_id)
        for entry_id in np.setdiff1d(held, ids).tolist() if not self._behind else ():
            self._wrong("it is in the snapshot and not in the database", entry_id)
        self._compare_columns(columns)
        return self._findings

    def _held(self, index: Index, ids: Sequence[int]) -> NDArray[np.int64]:
        rows = index.columns.rows_of(np.array(ids, dtype=np.int64))
        return index.columns.entry_ids[rows]

    def _compare_columns(self, columns: Columns) -> None:
        ids = self._columns.entry_ids
        one = columns.only(columns.rows_of(ids)).state()
        other = self._columns.state()
        differ = {
            "stamp": np.flatnonzero(one.stamps != other.stamps),
            "position": _rows_that_differ(one.positions, other.positions),
            "episode, frame, outcome, tags or metadata": _terms_that_differ(one, other),
        }
        for what, rows in differ.items():
            for entry_id in ids[rows].tolist():
                self._wrong(f"its {what} is not that of the entry", entry_id)

    def _note(self, text: str) -> None:
        self._findings.append(Finding(Part.SNAPSHOT, text, note=True))

    def _wrong(self, text: str, entry_id: int | None = None) -> None:
        self._findings.append(Finding(Part.SNAPSHOT, text, entry_id))


def _compared(own: Fingerprint, found: Fingerprint) -> Fingerprint:
    """Return the fingerprint that a snapshot's vectors should have, whatever head it was of."""
    return replace(own, dim=found.dim, head=found.head) if found.head else own


def _empty_columns(like: Columns) -> Columns:
    """Return columns without rows that hash terms as others do."""
    return like.only(np.empty(0, dtype=np.int64))


def _rows_that_differ(one: NDArray[np.float64], other: NDArray[np.float64]) -> Rows:
    """Return rows that are not equal, NaN being equal to NaN."""
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.flatnonzero(~same.all(axis=1)).astype(np.int64)


def _terms_that_differ(one: ColumnState, other: ColumnState) -> Rows:
    """Return rows that do not have the same terms."""
    if np.array_equal(one.term_hashes, other.term_hashes) and np.array_equal(
        one.term_rows, other.term_rows
    ):
        return np.empty(0, dtype=np.int64)
    pairs = [
        set(zip(s.term_hashes.tolist(), s.term_rows.tolist(), strict=True)) for s in (one, other)
    ]
    return np.array(sorted({row for _, row in pairs[0] ^ pairs[1]}), dtype=np.int64)
