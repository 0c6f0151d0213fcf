"""A process that adds and removes entries until it is killed. See test_memory_crash.py.

It says ``added <ids>`` and ``removed <ids>``, each after the call returned, and before each
call what it is about to do: ``adding <serials>``, ``removing <ids>``. Every entry has a serial
number that says what all of it must be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vla_retrieval.memory import Memory
from vla_retrieval.types import Embeddings, Fingerprint, NewEntry

DIM = 16
FINGERPRINT = Fingerprint("double", "sha256:" + "0" * 64, "224 bicubic", DIM)


def entry_of(serial: int) -> NewEntry:
    """Return what the entry of a serial number must be."""
    return NewEntry(
        f"do {serial}", serial, tags=(f"tag {serial % 5}",), metadata={"serial": str(serial)},
        thumbnail=str(serial).encode() * 700,
    )  # fmt: skip


def embeddings_of(serial: int) -> tuple[Embeddings, Embeddings]:
    """Return what its two embeddings must be."""
    pair = np.random.default_rng(serial).standard_normal((2, DIM))
    pair = (pair / np.linalg.norm(pair, axis=1, keepdims=True)).astype(np.float32)
    return pair[0], pair[1]


def say(*words: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(directory: Path, serial: int, seed: int) -> None:
    """Add one to four entries at a time, remove one now and then."""
    rng = np.random.default_rng(seed)
    mine: list[int] = []
    with Memory.open(directory, FINGERPRINT, durable=bool(seed % 2)) as memory:
        while True:
            count = int(rng.integers(1, 5))
            serials = range(serial, serial + count)
            halves = [np.array(half) for half in zip(*map(embeddings_of, serials), strict=True)]
            say("adding", *serials)
            ids = memory.add([entry_of(s) for s in serials], halves[0], halves[1])
            say("added", *ids)
            mine += ids
            serial += count
            if rng.random() < 0.3:
                gone = mine.pop(int(rng.integers(len(mine))))
                say("removing", gone)
                memory.remove([gone])
                say("removed", gone)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
