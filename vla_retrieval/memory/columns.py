"""What filters ask about, one array per field, in RAM beside the index.

SQLite remains the truth; this is derived from it, like the index. A filter becomes a mask over
the rows before anything is compared, so that a filtered search ranks exactly what passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.growing import Growing
from vla_retrieval.memory.terms import TermIndex
from vla_retrieval.types import Filter, Nearby, NewEntry, Outcome

Rows = NDArray[np.int64]
"""Row numbers in the index, ascending, shape ``(n,)``."""

Mask = NDArray[np.bool_]
"""Which rows, shape ``(rows,)``."""

_INT64 = np.iinfo(np.int64)
_NOWHERE = (np.nan, np.nan, np.nan)
_MOST_KNOWN = 256  # entries of one episode say the same; hashing what one says takes 10 us


class Facts(NamedTuple):
    """What filters may ask about one entry; nothing in it changes later.

    Attributes:
        stamp_ns: Nanoseconds since the epoch.
        position: Of its camera in metres, or NaN without a pose.
        said: What is compared by equality.
    """

    stamp_ns: int
    position: tuple[float, float, float]
    said: tuple[Any, ...]


def facts_of(entry: NewEntry) -> Facts:
    """Return what filters may ask about an entry."""
    pose = entry.camera_pose
    return Facts(
        entry.stamp_ns,
        _NOWHERE if pose is None else pose.position,
        (
            entry.episode_id, entry.frame_id, entry.outcome,
            None if pose is None else pose.frame_id, tuple(entry.tags),
            tuple(entry.metadata.items()),
        ),
    )  # fmt: skip


class ColumnState(NamedTuple):
    """All of it, as a snapshot keeps it; arrays that do not change later.

    Attributes:
        entry_ids: Shape ``(rows,)``, ascending.
        alive: Shape ``(rows,)``.
        stamps: Nanoseconds, shape ``(rows,)``.
        positions: Metres, shape ``(rows, 3)``.
        key: Of the terms' hash.
        term_hashes: Shape ``(pairs,)``.
        term_rows: Shape ``(pairs,)``.
    """

    entry_ids: NDArray[np.int64]
    alive: NDArray[np.bool_]
    stamps: NDArray[np.int64]
    positions: NDArray[np.float64]
    key: bytes
    term_hashes: NDArray[np.uint64]
    term_rows: NDArray[np.uint32]


class Columns:
    """The entries of an index's rows, ascending by id.

    A removed entry keeps its row, dead, until the index is compacted.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._ids: Growing[np.int64] = Growing(np.int64)
        self._alive: Growing[np.bool_] = Growing(np.bool_)
        self._stamps: Growing[np.int64] = Growing(np.int64)
        self._positions: Growing[np.float64] = Growing(np.float64, (3,))
        self._terms = TermIndex()
        self._known: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self._dead = 0

    @classmethod
    def restored(cls, state: ColumnState) -> Columns:
        """Return one from its ``state``."""
        columns = cls()
        columns._ids.append(state.entry_ids)
        columns._alive.append(state.alive)
        columns._stamps.append(state.stamps)
        columns._positions.append(state.positions)
        columns._terms = TermIndex.restored(state.key, state.term_hashes, state.term_rows)
        columns._dead = int((~state.alive).sum())
        return columns

    def state(self) -> ColumnState:
        """Return all of it; takes a copy of the small arrays."""
        hashes, rows = self._terms.state()
        return ColumnState(
            self._ids.view.copy(), self._alive.view.copy(), self._stamps.view.copy(),
            self._positions.view.copy(), self._terms.key, hashes, rows,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """How many rows there are, dead ones included."""
        return len(self._ids)

    @property
    def dead(self) -> int:
        """How many of them are dead."""
        return self._dead

    @property
    def entry_ids(self) -> NDArray[np.int64]:
        """The entry of each row, ascending."""
        return self._ids.view

    @property
    def stamps(self) -> NDArray[np.int64]:
        """The stamp of each row, in nanoseconds."""
        return self._stamps.view

    @property
    def alive(self) -> Mask:
        """Which rows are not dead."""
        return self._alive.view

    @property
    def size_bytes(self) -> int:
        """About how much RAM it takes."""
        return self.rows * (8 + 1 + 8 + 24) + len(self._terms) * 12

    def append(self, entry_ids: Sequence[int], facts: Sequence[Facts]) -> None:
        """Append one row per entry.

        Args:
            entry_ids: Ascending, all above those already there.
            facts: Of the entries.
        """
        hashes: list[int] = []
        rows: list[int] = []
        for row, known in enumerate(facts, start=self.rows):
            of_entry = self._hashes(known.said)
            hashes += of_entry
            rows += [row] * len(of_entry)
        self._ids.append(np.array(entry_ids, dtype=np.int64))
        self._alive.append(np.ones(len(facts), dtype=np.bool_))
        self._stamps.append(np.array([known.stamp_ns for known in facts], dtype=np.int64))
        positions = [known.position for known in facts]
        self._positions.append(np.array(positions, dtype=np.float64).reshape(-1, 3))
        self._terms.append(hashes, rows)

    def rows_of(self, entry_ids: NDArray[np.int64]) -> Rows:
        """Return the rows of some entries, ascending; without those dead or absent."""
        ids = self.entry_ids
        rows = np.searchsorted(ids, entry_ids)
        inside = rows < len(ids)
        rows, wanted = rows[inside], entry_ids[inside]
        rows = np.unique(rows[ids[rows] == wanted]).astype(np.int64)
        return rows[self.alive[rows]]

    def only(self, rows: Rows) -> Columns:
        """Return a copy that has only some rows, ascending, in their order."""
        state = self.state()
        kept = np.zeros(self.rows, dtype=np.bool_)
        kept[rows] = True
        new_row = (np.cumsum(kept) - 1).astype(np.uint32)
        of_kept = kept[state.term_rows]
        return Columns.restored(
            ColumnState(
                state.entry_ids[rows], state.alive[rows], state.stamps[rows],
                state.positions[rows], state.key, state.term_hashes[of_kept],
                new_row[state.term_rows[of_kept]],
            )
        )  # fmt: skip

    def bury(self, rows: Rows) -> None:
        """Mark living rows as dead."""
        self._alive.view[rows] = False
        self._dead += len(rows)

    def passing(self, wanted: Filter) -> Mask | None:
        """Return which rows a filter lets pass, or None for all. Dead rows never pass."""
        if wanted.passes_all:
            return None if not self._dead else self.alive
        masks = [self.alive] if self._dead else []
        for field, values in (
            ("episode", wanted.episode_ids),
            ("frame", wanted.frame_ids),
            ("outcome", [str(int(outcome)) for outcome in wanted.outcomes]),
        ):
            if values:
                masks.append(self._having(self._terms.hash(field, value) for value in values))
        for tag in set(wanted.tags):
            masks.append(self._having([self._terms.hash("tag", tag)]))
        for key, value in wanted.metadata.items():
            masks.append(self._having([self._terms.hash("metadata", key, value)]))
        if wanted.stamp_from_ns is not None:
            masks.append(self.stamps >= min(wanted.stamp_from_ns, _INT64.max))
        if wanted.stamp_to_ns is not None:
            masks.append(self.stamps <= max(wanted.stamp_to_ns, _INT64.min))
        if wanted.near is not None:
            masks.append(self._near(wanted.near))
        if wanted.exclude_ids or not masks:
            masks.append(np.ones(self.rows, dtype=np.bool_))
            masks[-1][self.rows_of(_as_int64(wanted.exclude_ids))] = False
        if len(masks) == 1:
            return masks[0]
        both: Mask = np.logical_and(masks[0], masks[1])
        for mask in masks[2:]:
            both &= mask
        return both

    def _having(self, hashes: Iterable[int]) -> Mask:
        return self._terms.having(hashes, self.rows)

    def _near(self, near: Nearby) -> Mask:
        with np.errstate(over="ignore"):  # infinitely far, then
            squares = np.square(self._positions.view - np.array(near.position)).sum(axis=1)
        inside: Mask = np.sqrt(squares) <= near.radius_m  # NaN compares false
        return inside & self._having([self._terms.hash("pose frame", near.frame_id)])

    def _hashes(self, said: tuple[Any, ...]) -> tuple[int, ...]:
        """Return the hashes of an entry's terms; those of the last entries are remembered."""
        known = self._known.get(said)
        if known is None:
            known = tuple(self._terms.hash(*term) for term in _terms(*said))
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[said] = known
        return known


def _as_int64(entry_ids: Sequence[int]) -> NDArray[np.int64]:
    """Return those entry ids that an entry can have."""
    try:
        return np.array(entry_ids, dtype=np.int64)
    except OverflowError:
        return np.array([i for i in entry_ids if 0 < i <= _INT64.max], dtype=np.int64)


def _terms(
    episode_id: str,
    frame_id: str,
    outcome: Outcome,
    pose_frame: str | None,
    tags: tuple[str, ...],
    metadata: tuple[tuple[str, str], ...],
) -> Iterator[tuple[str, ...]]:
    yield "episode", episode_id
    yield "frame", frame_id
    yield "outcome", str(int(outcome))
    if pose_frame is not None:
        yield "pose frame", pose_frame
    for tag in tags:
        yield "tag", tag
    for key, value in metadata:
        yield "metadata", key, value
