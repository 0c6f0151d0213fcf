"""What must be in a memory, in plain Python, and the lives that are lived in it.

A life is a list of steps as JSON takes them, so that another process can live it::

    ["add", [[serial, pinned], ...]]  ["remove", [entry_id, ...]]  ["pin", [entry_id, ...], pinned]
    ["snapshot"]  ["compact"]  ["reopen"]

Every entry has a serial number that says what all of it must be. A serial that is added again is a
near-duplicate, which is merged; the entry with the earliest stamp goes when the memory is full.
Where the bound is 0, nobody is merged and nobody goes.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vla_retrieval.memory import Memory, MemoryOptions, counters
from vla_retrieval.types import Embeddings, Fingerprint, Modality, NewEntry, Probe

DIM = 16
FINGERPRINT = Fingerprint("double", "sha256:" + "0" * 64, "224 bicubic", DIM)
Step = list[Any]


def options(max_entries: int, index: str = "exact") -> MemoryOptions:
    if not max_entries:
        return MemoryOptions(index=index)
    return MemoryOptions(index=index, max_entries=max_entries, merge_scene=0.999)


def entry_of(serial: int, *, pinned: bool = False) -> NewEntry:
    """Return what the entry of a serial number must be."""
    thumbnail = str(serial).encode() * 300 if serial % 3 else b""
    return NewEntry(
        f"do {serial}", stamp_of(serial), tags=(f"tag {serial % 5}",),
        metadata={"serial": str(serial)}, thumbnail=thumbnail, pinned=pinned,
    )  # fmt: skip


def stamp_of(serial: int) -> int:
    """Return a stamp in another order than that of the ids."""
    return serial * 7919 % 1009


def embeddings_of(serial: int) -> tuple[Embeddings, Embeddings]:
    """Return what its two embeddings must be."""
    pair = np.random.default_rng(serial).standard_normal((2, DIM))
    pair = (pair / np.linalg.norm(pair, axis=1, keepdims=True)).astype(np.float32)
    return pair[0], pair[1]


class Kept(NamedTuple):
    serial: int
    pinned: bool
    merged: int


@dataclass
class Book:
    """The state of a memory."""

    max_entries: int
    kept: dict[int, Kept] = field(default_factory=dict)
    next_id: int = 1
    merged: int = 0
    evicted: int = 0

    def after(self, step: Step) -> tuple[Book, Any]:
        """Return the state after a step, and what the step must say."""
        book = deepcopy(self)
        what, *arguments = step
        if what == "add":
            return book, book._add(*arguments)
        if what == "remove":
            for entry_id in arguments[0]:
                del book.kept[entry_id]
        elif what == "pin":
            for entry_id in arguments[0]:
                book.kept[entry_id] = book.kept[entry_id]._replace(pinned=arguments[1])
        return book, None

    def _add(self, batch: list[tuple[int, bool]]) -> list[list[Any]]:
        old = dict(self.kept)
        at = {kept.serial: entry_id for entry_id, kept in old.items()}
        ids, merged = [], []
        for serial, pinned in batch:
            merged.append(bool(self.max_entries) and serial in at)
            if merged[-1]:
                kept = self.kept[at[serial]]
                self.kept[at[serial]] = kept._replace(merged=kept.merged + 1)
                self.merged += 1
            else:
                at[serial] = self.next_id
                self.kept[self.next_id] = Kept(serial, pinned, 0)
                self.next_id += 1
            ids.append(at[serial])
        over = max(0, len(self.kept) - self.max_entries) if self.max_entries else 0
        may_go = [i for i, kept in old.items() if not kept.pinned]
        gone = sorted(may_go, key=lambda i: (stamp_of(old[i].serial), i))[:over]
        assert len(gone) == over, "the life pins too many"
        for entry_id in gone:
            del self.kept[entry_id]
        self.evicted += over
        return [ids, merged, gone]


def life(book: Book, first_serial: int, steps: int, seed: int) -> tuple[list[Step], int]:
    """Return a random life from a state on, and the first serial that it does not use."""
    rng = np.random.default_rng(seed)
    serial, lived = first_serial, []
    for number in range(steps):
        ids = sorted(book.kept)
        pins = sum(kept.pinned for kept in book.kept.values())
        choice = rng.choice(
            ["add", "add", "add", "remove", "pin", "snapshot", "compact", "reopen"]
        ) if number else "add"  # fmt: skip
        step: Step = [str(choice)]
        if choice == "add" or not ids:
            batch: list[tuple[int, bool]] = []
            for _ in range(int(rng.integers(1, 5))):
                again = ids and rng.random() < 0.25
                if again:
                    batch.append((book.kept[int(rng.choice(ids))].serial, False))
                    continue
                pinned = bool(rng.random() < 0.1 and pins < book.max_entries // 4)
                pins += pinned
                batch.append((serial, pinned))
                serial += 1
            if rng.random() < 0.2:
                batch.append((batch[0][0], False))
            step = ["add", batch]
        elif choice == "remove":
            step.append(rng.choice(ids, min(len(ids), 2), replace=False).tolist())
        elif choice == "pin":
            pinned = pins < book.max_entries // 4
            step += [rng.choice(ids, 1).tolist(), pinned]
        book, _ = book.after(step)
        lived.append(step)
    return lived, serial


def state_of(memory: Memory, max_entries: int) -> Book:
    """Return what a memory holds, and check that each entry is what its serial says."""
    ids = memory.entry_ids()
    kept: dict[int, Kept] = {}
    for entry in memory.get_many(ids, thumbnails=True):
        serial = int(entry.metadata["serial"])
        expected = entry_of(serial)
        assert (entry.instruction, entry.stamp_ns) == (expected.instruction, expected.stamp_ns)
        assert (entry.tags, entry.metadata) == (expected.tags, expected.metadata)
        assert entry.thumbnail == expected.thumbnail
        kept[entry.entry_id] = Kept(serial, entry.pinned, entry.merged)
        np.testing.assert_array_equal(memory.embeddings(entry.entry_id), embeddings_of(serial))
    assert_finds_all(memory, kept)
    with memory._database.reading() as connection:
        last = counters.last_given_out(connection)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    stats = memory.stats()
    assert stats.entries == len(ids)
    return Book(max_entries, kept, last + 1, stats.merged, stats.evicted)


def assert_finds_all(memory: Memory, kept: dict[int, Kept]) -> None:
    """Search for each half of a random direction: all entries, rightly scored and ordered."""
    ids = list(kept)
    queries = embeddings_of(10**6)
    halves = [embeddings_of(kept[i].serial) for i in ids]
    for half, (modality, query) in enumerate(zip(Modality, queries, strict=True)):
        found = memory.search([Probe(modality, query)], max(1, len(ids)))
        scores = [float(pair[half].astype(np.float64) @ query) for pair in halves]
        order = sorted(range(len(ids)), key=lambda n: -scores[n])
        assert [c.entry_id for c in found.candidates] == [ids[n] for n in order]
        np.testing.assert_allclose(
            [c.score for c in found.candidates], [scores[n] for n in order], atol=1e-6
        )
