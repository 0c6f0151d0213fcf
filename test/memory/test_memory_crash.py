"""A memory whose process is killed while it writes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.memory import Memory
from vla_retrieval.types import Modality, Probe

from . import adder
from .conftest import child_environment

KILLS = 10


@dataclass
class Ledger:
    """What must be in the memory, from what its processes said before they were killed."""

    serials: dict[int, int] = field(default_factory=dict)  # entry_id -> serial
    highest_id: int = 0
    next_serial: int = 0
    adding: list[int] = field(default_factory=list)  # serials begun and not acknowledged
    removing: list[int] = field(default_factory=list)  # ids

    def take(self, line: str) -> None:
        verb, *words = line.split()
        numbers = list(map(int, words))
        if verb == "adding":
            self.adding = numbers
            self.next_serial = numbers[-1] + 1
        elif verb == "added":
            assert numbers[0] > self.highest_id, "an id was given out twice"
            self.serials.update(zip(numbers, self.adding, strict=True))
            self.highest_id = numbers[-1]
            self.adding = []
        elif verb == "removing":
            self.removing = numbers
        else:
            for entry_id in numbers:
                del self.serials[entry_id]
            self.removing = []

    def settle(self, present: set[int]) -> None:
        """Accept the call that was cut off if it happened wholly or not at all."""
        for entry_id in self.removing:
            if entry_id not in present:
                del self.serials[entry_id]
        new = sorted(present - self.serials.keys())
        assert len(new) in (0, len(self.adding)), "a part of an add is there"
        self.serials.update(zip(new, self.adding, strict=bool(new)))
        self.highest_id = max([self.highest_id, *new])
        self.adding, self.removing = [], []
        assert present == self.serials.keys()


def start_adder(directory: Path, serial: int, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, adder.__file__, str(directory), str(serial), str(seed)],
        stdout=subprocess.PIPE, text=True, env=child_environment(),
    )  # fmt: skip


def run_until_killed(directory: Path, ledger: Ledger, seed: int) -> None:
    lines = int(np.random.default_rng(seed).integers(5, 60))
    with start_adder(directory, ledger.next_serial, seed) as child:
        assert child.stdout is not None
        for _ in range(lines):
            ledger.take(child.stdout.readline())
        child.kill()  # SIGKILL, wherever it is by now
        for line in child.stdout:
            ledger.take(line)


def ids_in(memory: Memory) -> set[int]:
    probe = Probe(Modality.SCENE, adder.embeddings_of(0)[0])
    return {c.entry_id for c in memory.search([probe], 10**6).candidates}


def assert_whole(memory: Memory, serials: dict[int, int]) -> None:
    for entry in memory.get_many(list(serials), thumbnails=True):
        serial = serials[entry.entry_id]
        expected = adder.entry_of(serial)
        assert (entry.instruction, entry.stamp_ns) == (expected.instruction, expected.stamp_ns)
        assert (entry.tags, entry.metadata) == (expected.tags, expected.metadata)
        assert entry.thumbnail == expected.thumbnail
        halves = adder.embeddings_of(serial)
        np.testing.assert_array_equal(memory.embeddings(entry.entry_id), halves)
        for modality, vector in zip(Modality, halves, strict=True):
            best = memory.search([Probe(modality, vector)], 1).candidates[0]
            assert best.entry_id == entry.entry_id


def test_what_was_acknowledged_is_there_after_each_kill(directory: Path) -> None:
    ledger = Ledger()
    for seed in range(KILLS):
        run_until_killed(directory, ledger, seed)
        with Memory.open(directory, adder.FINGERPRINT) as memory:
            ledger.settle(ids_in(memory))
            assert memory.stats().entries == len(ledger.serials)
            assert_whole(memory, ledger.serials)
    assert len(ledger.serials) > 3 * KILLS


@pytest.mark.parametrize("lines", [0, 1])
def test_a_kill_while_a_memory_is_made_leaves_one_that_opens(directory: Path, lines: int) -> None:
    with start_adder(directory, 0, 1) as child:
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        while not lines and not directory.exists():
            assert child.poll() is None
        child.kill()
    with Memory.open(directory, adder.FINGERPRINT) as memory:
        assert memory.stats().entries in range(5)
