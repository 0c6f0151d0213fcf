"""What is measured: the memory, FAISS called directly, and the shape that every peer has."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import faiss
import numpy as np

import vla_retrieval.memory
from tools.benchmarks.bench import K, Settings
from tools.benchmarks.data import FloatArray, IntArray, Pairs
from tools.benchmarks.entries import Labels
from tools.benchmarks.truth import Side, half_of
from vla_retrieval.memory import Memory
from vla_retrieval.types import EVERYTHING, Filter, Fingerprint, Modality, Probe


class System(Protocol):
    """A store of vectors in a folder. A row of the gallery is known by its number.

    Attributes:
        name: In the tables.
        package: The module that it needs.
        note: What a reader must know to compare it.
        can_filter: Whether ``search_group`` can be called.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str]
    can_filter: ClassVar[bool]

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Take the folder, and import the package: its RAM is not the entries'."""

    def create(self) -> None:
        """Start empty."""

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Store rows; only the scenes, unless it holds pairs."""

    def finish(self) -> None:
        """Build what is to be built, write everything and close."""

    def open(self) -> None:
        """Open what ``finish`` left."""

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the ``K`` best scenes."""

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """The same within the entries that have this label."""

    def close(self) -> None:
        """Let go of the folder."""


def has_options() -> bool:
    """Whether this version of the memory takes options for its index."""
    return hasattr(vla_retrieval.memory, "MemoryOptions")


def open_memory(folder: Path, settings: Settings, *, durable: bool) -> Memory:
    """Open the memory with the index that the settings name, where it has a choice."""
    options: dict[str, Any] = {}
    if has_options():
        chosen: dict[str, Any] = {"index": settings.index, "recall_target": 0.99}
        if settings.index_bytes is not None:
            chosen["index_bytes"] = settings.index_bytes
        options["options"] = vla_retrieval.memory.MemoryOptions(**chosen)
    made_by = Fingerprint("benchmark", "sha256:" + "0" * 64, "none", settings.recipe.dim)
    return Memory.open(folder, made_by, durable=durable, **options)


def wait_until_idle(memory: Memory) -> None:
    """Let the memory finish what it does in the background, where it does something."""
    waiting = getattr(memory, "wait_until_idle", None)
    if waiting is not None:
        waiting()


def index_facts(memory: Memory) -> dict[str, Any]:
    """What the memory says of its index; empty where it says nothing."""
    index = getattr(memory.stats(), "index", None)
    if index is None:
        return {}
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(index), default=str))
    return found


def search_memory(
    memory: Memory, sides: Sequence[Side], query: Pairs, filter: Filter | None = None
) -> IntArray:
    """Ask the memory through its public door; entry ids begin at 1, rows at 0.

    Args:
        memory: To be asked.
        sides: How query and entries are compared.
        query: One pair, vectors of shape ``(dim,)``.
        filter: Which entries may be found.
    """
    probes = [Probe(s.half, half_of(query, s.asked_by), s.weight, s.asked_by) for s in sides]
    found = memory.search(probes, K, filter=filter or EVERYTHING)
    return np.array([candidate.entry_id - 1 for candidate in found.candidates], dtype=np.int64)


class OurMemory:
    """The memory, through its public door.

    Args:
        folder: Of the memory.
        settings: Of the benchmark.
    """

    name: ClassVar[str] = "memory"
    package: ClassVar[str] = "vla_retrieval"
    note: ClassVar[str] = "holds both halves of the pair and the entry"
    can_filter: ClassVar[bool] = True

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings

    def create(self) -> None:
        """Start empty."""
        self.open()

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Store pairs in one commit."""
        self.memory.add(labels.entries(rows), pairs.scenes, pairs.instructions)

    def finish(self) -> None:
        """Wait for the index, then close."""
        wait_until_idle(self.memory)
        self.memory.close()

    def open(self) -> None:
        """Open without fsync in each commit: the process may die, the power stays on."""
        self.memory = open_memory(self._folder, self._settings, durable=False)

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return self._search(vector, Filter())

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """The same within the entries that have this label."""
        return self._search(vector, Filter(metadata={"group": group}))

    def close(self) -> None:
        """Close the memory."""
        self.memory.close()

    def _search(self, vector: FloatArray, filter: Filter) -> IntArray:
        found = self.memory.search([Probe(Modality.SCENE, vector)], K, filter=filter)
        return np.array([candidate.entry_id - 1 for candidate in found.candidates], dtype=np.int64)


class ExactFaiss:
    """FAISS IndexFlatIP, called directly with one thread: the scenes and nothing else.

    Args:
        folder: Where the index is written.
        settings: Of the benchmark.
    """

    name: ClassVar[str] = "faiss flat"
    package: ClassVar[str] = "faiss"
    note: ClassVar[str] = "exact, one thread, in RAM; written as one file"
    can_filter: ClassVar[bool] = False

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._file, self._dim = folder / "flat.faiss", settings.recipe.dim

    def create(self) -> None:
        """Start empty."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._index: Any = faiss.IndexFlatIP(self._dim)

    def add(self, rows: IntArray, pairs: Pairs, labels: Labels) -> None:
        """Append the scenes."""
        self._index.add(pairs.scenes)

    def finish(self) -> None:
        """Write the file."""
        faiss.write_index(self._index, str(self._file))

    def open(self) -> None:
        """Read the file."""
        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(str(self._file))

    def search(self, vector: FloatArray) -> IntArray:
        """Rows of the best scenes."""
        return np.asarray(self._index.search(vector[np.newaxis], K)[1][0], dtype=np.int64)

    def search_group(self, vector: FloatArray, group: str) -> IntArray:
        """Not to be called: it knows no labels."""
        raise NotImplementedError(self.name)

    def close(self) -> None:
        """Nothing is held."""


class BareFaiss:
    """An index of FAISS over each half, called directly with one thread.

    Args:
        gallery: The entries.
        description: For ``faiss.index_factory``; ``Flat`` is exact.
        halves: The halves that will be asked.
    """

    def __init__(self, gallery: Pairs, description: str, halves: Sequence[Modality]) -> None:
        self._indexes = {half: _filled(half_of(gallery, half), description) for half in halves}

    def search(self, sides: Sequence[Side], query: Pairs, probes: int | None = None) -> IntArray:
        """Rows of the best entries; a pair is one search of each half, not merged.

        Args:
            sides: How query and entries are compared.
            query: One pair, vectors of shape ``(dim,)``.
            probes: Lists of an inverted file to visit.
        """
        # Numbers of threads are kept for each thread that asks, and other libraries change them.
        faiss.omp_set_num_threads(1)
        rows = np.empty(0, dtype=np.int64)
        for side in sides:
            index = self._indexes[side.half]
            if probes is not None:
                index.nprobe = probes
            rows = index.search(half_of(query, side.asked_by)[np.newaxis], K)[1][0]
        return np.asarray(rows, dtype=np.int64)


def _filled(vectors: FloatArray, description: str) -> Any:
    faiss.omp_set_num_threads(os.cpu_count() or 1)  # for building; a search sets it back
    index = faiss.index_factory(vectors.shape[1], description, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // 160_000)]))
    for start in range(0, len(vectors), 65_536):
        index.add(np.ascontiguousarray(vectors[start : start + 65_536]))
    return index
