"""Random lives of a memory against brute force."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vla_retrieval.errors import EntryNotFoundError, StorageError
from vla_retrieval.memory import Memory
from vla_retrieval.types import (
    CameraPose,
    Embeddings,
    Filter,
    Modality,
    Nearby,
    NewEntry,
    Outcome,
    Probe,
    Similarity,
)

from .oracle import BruteForce, assert_same, fingerprint, unit

DIM = 4
TEXTS = st.sampled_from(["", "a", "b"])
WORDS = st.sampled_from(["x", "y", "z"])

# Few different vectors, so that ties are common; and copies that float32 can hardly tell apart.
VECTORS = st.builds(
    lambda corner, nudge: unit(np.array(corner, dtype=np.float64) + nudge),
    st.sampled_from([(1, 0, 0, 0), (0, 1, 1, 0), (1, 1, 1, 1), (-1, 2, 0, 0.5), (0.3, 0, -1, 1)]),
    st.sampled_from([0.0, 0.0, 1e-7, 3e-7, 1e-3]),
)
# On a grid, so that distances are whole or far from whole and the surface of a ball is met.
GRID = st.tuples(*[st.sampled_from([-3.0, 0.0, 4.0])] * 3)
POSES = st.builds(
    CameraPose, frame_id=TEXTS, stamp_ns=st.just(0), position=GRID,
    orientation=st.just((0.0, 0.0, 0.0, 1.0)),
)  # fmt: skip
ENTRIES = st.builds(
    NewEntry,
    instruction=st.just("pick up the cup"),
    stamp_ns=st.integers(0, 5),
    frame_id=TEXTS,
    episode_id=TEXTS,
    outcome=st.sampled_from(Outcome),
    tags=st.lists(WORDS, unique=True).map(tuple),
    metadata=st.dictionaries(WORDS, TEXTS),
    camera_pose=st.none() | POSES,
    pinned=st.booleans(),
)
FILTERS = st.builds(
    lambda times, **parts: Filter(stamp_from_ns=times[0], stamp_to_ns=times[1], **parts),
    times=st.sampled_from([(None, None), (1, None), (None, 3), (2, 2), (1, 4)]),
    episode_ids=st.lists(TEXTS, max_size=2).map(tuple),
    outcomes=st.lists(st.sampled_from(Outcome), max_size=2).map(tuple),
    frame_ids=st.lists(TEXTS, max_size=2).map(tuple),
    tags=st.lists(WORDS, max_size=2).map(tuple),
    metadata=st.dictionaries(WORDS, TEXTS, max_size=2),
    exclude_ids=st.lists(st.integers(-1, 20), max_size=5).map(tuple),
)
NEAR = st.builds(
    lambda near, rest: replace(rest, near=near),
    st.builds(Nearby, GRID, st.sampled_from([1.0, 3.0, 4.0, 5.0, 7.0, 100.0]), TEXTS),
    st.just(Filter()) | FILTERS,
)
WEIGHTS = st.sampled_from([0.0, 1e-9, 0.3, 0.5, 0.9, 1.0])
PROBES = st.lists(
    st.builds(Probe, st.sampled_from(Modality), VECTORS, WEIGHTS), min_size=1, max_size=3
)


def damage(path: Path, how: str, at: float) -> bool:
    """Damage a snapshot at a share of its length; return whether it is there and sound."""
    if not path.exists():
        return False
    content = bytearray(path.read_bytes())
    position = int(at * len(content))
    if how == "deleted":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(content[:position])
    elif how == "flipped" and content:
        content[position] ^= 1
        path.write_bytes(content)
    return how in ("as it is", "new")


class MemoryLife(RuleBasedStateMachine):
    """Adds, removes, searches and restarts in any order, in the memory and in the oracle."""

    @initialize(similarity=st.sampled_from(Similarity), limit=st.sampled_from([0, 256]))
    def start(self, similarity: Similarity, limit: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.limit = patch("vla_retrieval.memory.index._SCORED_DIRECTLY", limit)
        self.limit.start()
        self.similarity = similarity
        self.read_only = False
        self.expected = BruteForce()
        self.pinned: set[int] = set()
        self.memory = self.open()

    def open(self) -> Memory:
        return Memory.open(
            self.directory / "memory", fingerprint(DIM), self.similarity, durable=False,
            read_only=self.read_only,
        )  # fmt: skip

    def can_write(self) -> bool:
        return hasattr(self, "memory") and not self.read_only

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            self.limit.stop()
            shutil.rmtree(self.directory)

    @precondition(can_write)
    @rule(rows=st.lists(st.tuples(ENTRIES, VECTORS, VECTORS), min_size=1, max_size=6))
    def add(self, rows: Sequence[tuple[NewEntry, Embeddings, Embeddings]]) -> None:
        entries, scenes, instructions = zip(*rows, strict=True)
        halves = np.array(scenes), np.array(instructions)
        ids = self.memory.add(entries, *halves)
        assert ids == self.expected.add(entries, *halves)
        self.pinned |= {i for i, entry in zip(ids, entries, strict=True) if entry.pinned}

    @precondition(can_write)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if ids := self.some_ids(data):
            self.memory.remove(ids)
            self.expected.remove(ids)
            self.pinned -= set(ids)

    @precondition(can_write)
    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        if ids := self.some_ids(data):
            self.memory.pin(ids, pinned=pinned)
            (self.pinned.update if pinned else self.pinned.difference_update)(ids)

    def some_ids(self, data: st.DataObject) -> list[int]:
        if not self.expected.rows:
            return []
        known = st.sampled_from(sorted(self.expected.rows))
        return data.draw(st.lists(known, min_size=1, max_size=5, unique=True))

    @precondition(can_write)
    @rule(above=st.integers(0, 2))
    def change_an_unknown_id(self, above: int) -> None:
        ids = [*list(self.expected.rows)[:2], self.expected.next_id + above]
        for change in (self.memory.remove, self.memory.pin):
            with pytest.raises(EntryNotFoundError, match=str(ids[-1])):
                change(ids)

    @precondition(lambda self: self.read_only)
    @rule()
    def change_what_is_only_read(self) -> None:
        for change in (lambda: self.memory.remove([]), self.memory.compact):
            with pytest.raises(StorageError, match="opened to be read only"):
                change()

    @rule(
        probes=PROBES, k=st.integers(1, 12), wanted=st.just(Filter()) | FILTERS | NEAR,
        min_score=st.sampled_from([-np.inf, -0.5, 0.0, 0.5]),
    )  # fmt: skip
    def search(self, probes: list[Probe], k: int, wanted: Filter, min_score: float) -> None:
        found = self.memory.search(probes, k, filter=wanted, min_score=min_score)
        expected = self.expected.search(self.similarity, probes, k, wanted, min_score)
        assert_same(found, expected)
        assert found.exact

    @precondition(can_write)
    @rule()
    def write_snapshot(self) -> None:
        self.memory.write_snapshot()
        assert self.memory.stats().index.snapshot_behind == 0

    @precondition(can_write)
    @rule()
    def compact(self) -> None:
        self.memory.compact()
        assert self.memory.stats().index.dead_rows == 0

    @rule(
        similarity=st.sampled_from([None, None, *Similarity]),
        snapshot=st.sampled_from(["as it is", "as it is", "new", "deleted", "cut off", "flipped"]),
        read_only=st.sampled_from([False, False, True]), at=st.floats(0, 1, exclude_max=True),
    )  # fmt: skip
    def reopen(
        self, similarity: Similarity | None, snapshot: str, read_only: bool, at: float
    ) -> None:
        rewritten = snapshot == "new" and not self.read_only
        if rewritten:
            self.memory.write_snapshot()
        self.memory.close()
        whole = damage(self.directory / "memory" / "index.snapshot", snapshot, at)
        same = similarity in (None, self.similarity)
        self.similarity, self.read_only = similarity or self.similarity, read_only
        self.memory = self.open()
        from_snapshot = self.memory.stats().index.opened_from.startswith("the snapshot")
        assert whole or not from_snapshot
        assert from_snapshot or not (rewritten and same)

    @invariant()
    def every_entry_is_there_with_its_embeddings(self) -> None:
        if not hasattr(self, "memory"):
            return
        ids = list(self.expected.rows)
        assert self.memory.stats().entries == len(ids)
        for entry in self.memory.get_many(ids):
            expected, scene, instruction = self.expected.rows[entry.entry_id]
            assert (entry.tags, entry.metadata) == (expected.tags, expected.metadata)
            assert entry.camera_pose == expected.camera_pose
            assert entry.pinned == (entry.entry_id in self.pinned)
            found = self.memory.embeddings(entry.entry_id)
            np.testing.assert_array_equal(found, [scene, instruction])


MemoryLife.TestCase.settings = settings(
    max_examples=90, stateful_step_count=25, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


class TestAnyLifeOfAMemoryEqualsBruteForce(MemoryLife.TestCase):  # type: ignore[name-defined,misc,valid-type]  # made at run time
    """Collected by pytest under this name."""
