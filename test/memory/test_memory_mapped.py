"""Vectors mapped from files: the same answers as from RAM."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from test.memory.oracle import fingerprint
from vla_retrieval.errors import StorageError
from vla_retrieval.memory import Memory, MemoryOptions, vectors
from vla_retrieval.types import Filter, Modality, NewEntry, Probe, Similarity

DIM = 6
COUNT = 1500
RNG = np.random.default_rng(0)
SCENES, INSTRUCTIONS = (RNG.standard_normal((COUNT, DIM)).astype(np.float32) for _ in range(2))
ENTRIES = [NewEntry(f"do {n}", n, episode_id=f"{n % 7}") for n in range(COUNT)]


def opened(directory: Path, similarity: Similarity, folder: Path | None) -> Memory:
    options = MemoryOptions(index="exact", vectors_in=folder)
    return Memory.open(directory, fingerprint(DIM, normalized=False), similarity, options=options)


def filled(directory: Path, similarity: Similarity, folder: Path | None) -> Memory:
    memory = opened(directory, similarity, folder)
    for start in range(0, COUNT, 500):
        part = slice(start, start + 500)
        memory.add(ENTRIES[part], SCENES[part], INSTRUCTIONS[part])
    return memory


def answers(memory: Memory) -> list[list[tuple[int, float]]]:
    probes = [
        [Probe(modality, vector, 1.0, modality)] for modality in Modality for vector in SCENES[:4]
    ]
    probes.append(
        [Probe(m, v, w, m) for m, v, w in zip(Modality, SCENES, (0.3, 0.7), strict=False)]
    )
    filters = Filter(), Filter(exclude_ids=tuple(range(1, COUNT, 2))), Filter(episode_ids=("3",))
    return [
        [(c.entry_id, c.score) for c in memory.search(probe, 20, filter=wanted).candidates]
        for probe in probes for wanted in filters
    ]  # fmt: skip


@pytest.mark.parametrize("similarity", list(Similarity))
def test_mapped_vectors_answer_as_those_in_ram(
    tmp_path: Path, similarity: Similarity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MAPPED_ROWS", 400)  # so that there are several files
    with filled(tmp_path / "ram", similarity, None) as memory:
        expected = answers(memory)
    folder = tmp_path / "files"
    folder.mkdir()
    with filled(tmp_path / "mapped", similarity, folder) as memory:
        assert answers(memory) == expected
        mapped = [line for line in Path("/proc/self/maps").read_text().splitlines()
                  if str(folder) in line]  # fmt: skip
        assert len(mapped) >= 2 * COUNT // 400
    assert (tmp_path / "mapped" / "index.snapshot").exists()
    with opened(tmp_path / "mapped", similarity, folder) as memory:
        assert "snapshot" in memory.stats().index.opened_from
        assert answers(memory) == expected
        memory.remove(list(range(1, 1200)))  # so many that their rows go
        memory.wait_until_idle(60.0)
        left = answers(memory)
    with opened(tmp_path / "mapped", similarity, None) as memory:
        assert answers(memory) == left
    assert not list(folder.iterdir())


def test_a_folder_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a memory is opened whose vectors do not fit there; it opens with them in RAM."""
    filled(tmp_path / "memory", Similarity.COSINE, None).close()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = f"cannot map vectors from a file in {re.escape(str(tmp_path))}: No space left"
    with pytest.raises(StorageError, match=message):
        opened(tmp_path / "memory", Similarity.COSINE, tmp_path)
    with opened(tmp_path / "memory", Similarity.COSINE, None) as memory:
        assert memory.stats().entries == COUNT
