"""Random lives of a memory against brute force."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vla_retrieval.errors import EntryNotFoundError
from vla_retrieval.memory import Memory
from vla_retrieval.types import (
    Embeddings,
    Filter,
    Modality,
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
ENTRIES = st.builds(
    NewEntry,
    instruction=st.just("pick up the cup"),
    stamp_ns=st.integers(0, 5),
    frame_id=TEXTS,
    episode_id=TEXTS,
    outcome=st.sampled_from(Outcome),
    tags=st.lists(WORDS, unique=True).map(tuple),
    metadata=st.dictionaries(WORDS, TEXTS),
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
WEIGHTS = st.sampled_from([0.0, 1e-9, 0.3, 0.5, 0.9, 1.0])
PROBES = st.lists(
    st.builds(Probe, st.sampled_from(Modality), VECTORS, WEIGHTS), min_size=1, max_size=3
)


class MemoryLife(RuleBasedStateMachine):
    """Adds, removes, searches and restarts in any order, in the memory and in the oracle."""

    @initialize(similarity=st.sampled_from(Similarity), limit=st.sampled_from([0, 256]))
    def start(self, similarity: Similarity, limit: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.limit = patch("vla_retrieval.memory.index._SCORED_DIRECTLY", limit)
        self.limit.start()
        self.similarity = similarity
        self.expected = BruteForce()
        self.memory = self.open()

    def open(self) -> Memory:
        return Memory.open(
            self.directory / "memory", fingerprint(DIM), self.similarity, durable=False
        )

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            self.limit.stop()
            shutil.rmtree(self.directory)

    @rule(rows=st.lists(st.tuples(ENTRIES, VECTORS, VECTORS), min_size=1, max_size=6))
    def add(self, rows: Sequence[tuple[NewEntry, Embeddings, Embeddings]]) -> None:
        entries, scenes, instructions = zip(*rows, strict=True)
        halves = np.array(scenes), np.array(instructions)
        assert self.memory.add(entries, *halves) == self.expected.add(entries, *halves)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.expected.rows:
            known = st.sampled_from(sorted(self.expected.rows))
            ids = data.draw(st.lists(known, min_size=1, max_size=5, unique=True))
            self.memory.remove(ids)
            self.expected.remove(ids)

    @rule(above=st.integers(0, 2))
    def remove_with_an_unknown_id(self, above: int) -> None:
        ids = [*list(self.expected.rows)[:2], self.expected.next_id + above]
        with pytest.raises(EntryNotFoundError, match=str(ids[-1])):
            self.memory.remove(ids)

    @rule(
        probes=PROBES, k=st.integers(1, 12), wanted=st.one_of(st.just(Filter()), FILTERS),
        min_score=st.sampled_from([-np.inf, -0.5, 0.0, 0.5]),
    )  # fmt: skip
    def search(self, probes: list[Probe], k: int, wanted: Filter, min_score: float) -> None:
        found = self.memory.search(probes, k, filter=wanted, min_score=min_score)
        assert_same(found, self.expected.search(self.similarity, probes, k, wanted, min_score))

    @rule(similarity=st.sampled_from(Similarity))
    def reopen(self, similarity: Similarity) -> None:
        self.memory.close()
        self.similarity = similarity
        self.memory = self.open()

    @invariant()
    def every_entry_is_there_with_its_embeddings(self) -> None:
        if not hasattr(self, "memory"):
            return
        ids = list(self.expected.rows)
        assert self.memory.stats().entries == len(ids)
        for entry in self.memory.get_many(ids):
            expected, scene, instruction = self.expected.rows[entry.entry_id]
            assert (entry.tags, entry.metadata) == (expected.tags, expected.metadata)
            found = self.memory.embeddings(entry.entry_id)
            np.testing.assert_array_equal(found, [scene, instruction])


MemoryLife.TestCase.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


class TestAnyLifeOfAMemoryEqualsBruteForce(MemoryLife.TestCase):  # type: ignore[name-defined,misc,valid-type]  # made at run time
    """Collected by pytest under this name."""
