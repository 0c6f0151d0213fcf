"""A memory with a snapshot, beside what it must hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vla_retrieval.memory import Memory, MemoryOptions
from vla_retrieval.types import Filter, Modality, NewEntry, Probe, Similarity

from .oracle import DIM, BruteForce, assert_same, unit_vectors

if TYPE_CHECKING:
    from .conftest import OpenMemory

SNAPSHOT = "index.snapshot"
KINDS = ["exact", "pq", "pq_sq8", "hash"]


class Kept:
    """A memory and what it must hold, from opening to opening."""

    def __init__(self, open_memory: OpenMemory, directory: Path, index: str = "exact") -> None:
        self.directory, self.index = directory, index
        self.expected = BruteForce()
        self._open = open_memory
        self.memory = self.open()

    def open(self, **options: object) -> Memory:
        self.memory = self._open(options=MemoryOptions(index=self.index), **options)
        return self.memory

    def add(self, count: int) -> None:
        first = self.expected.next_id
        entries = [
            NewEntry(f"do {n}", n, episode_id=str(n % 3), tags=("even",) if n % 2 == 0 else ())
            for n in range(first, first + count)
        ]
        halves = unit_vectors(count, DIM, first), unit_vectors(count, DIM, first + 5000)
        assert self.memory.add(entries, *halves) == self.expected.add(entries, *halves)

    def remove(self, *ids: int) -> None:
        self.memory.remove(ids)
        self.expected.remove(ids)

    def write_snapshot(self) -> bytes:
        self.memory.wait_until_idle()
        self.memory.write_snapshot()
        return (self.directory / SNAPSHOT).read_bytes()

    def check(self, similarity: Similarity = Similarity.COSINE) -> None:
        assert self.memory.entry_ids() == sorted(self.expected.rows)
        scene, instruction = unit_vectors(2, DIM, 77)
        for probes in (
            [Probe(Modality.SCENE, scene)],
            [Probe(Modality.SCENE, scene, 0.4), Probe(Modality.INSTRUCTION, instruction, 0.6)],
        ):
            for wanted in (Filter(), Filter(tags=("even",), episode_ids=("1", "2"))):
                for k in (3, 10**4):
                    found = self.memory.search(probes, k, filter=wanted)
                    expected = self.expected.search(similarity, probes, k, wanted)
                    assert_same(found, expected)
        assert self.memory.get(max(self.expected.rows)).instruction.startswith("do ")

    @property
    def source(self) -> str:
        return self.memory.stats().index.opened_from

    def from_snapshot(self) -> bool:
        return self.source.startswith("the snapshot")


@pytest.fixture(params=KINDS)
def kept(
    request: pytest.FixtureRequest, open_memory: OpenMemory, directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Kept:  # fmt: skip
    """Return a memory of 60 entries with a snapshot, of each kind of index."""
    monkeypatch.setattr("vla_retrieval.memory.building.FEWEST_TO_FIT", 30)
    memory = Kept(open_memory, directory, request.param)
    memory.add(60)
    memory.remove(7, 30)
    memory.write_snapshot()
    assert memory.memory.stats().index.kind == request.param
    return memory


@pytest.fixture
def plain(open_memory: OpenMemory, directory: Path) -> Kept:
    """Return the same with an exact index."""
    memory = Kept(open_memory, directory)
    memory.add(60)
    memory.remove(7, 30)
    memory.write_snapshot()
    return memory
