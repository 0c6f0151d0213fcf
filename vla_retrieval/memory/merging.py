"""Which new entries are near-duplicates of one that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.memory.results import Added
from vla_retrieval.types import Action, Embeddings, Entry, Filter, NewEntry

_LOOKED_AT = 8


class Neighbour(NamedTuple):
    """An entry that may be a near-duplicate.

    Attributes:
        entry_id: Its id.
        scene: Cosine of the scenes.
        instruction: Cosine of the instructions.
    """

    entry_id: int
    scene: float
    instruction: float


Neighbours = Callable[[Embeddings, Embeddings, Filter, int], Sequence[Neighbour]]
"""Finds the nearest by scene and instruction among those that pass a filter, and how many."""

Read = Callable[[Sequence[int]], Sequence[Entry]]


def find_duplicate(
    entry: NewEntry,
    scene: Embeddings,
    instruction: Embeddings,
    options: MemoryOptions,
    neighbours: Neighbours,
    read: Read,
) -> int | None:
    """Return the id of a stored entry that a new one repeats, or None.

    Both halves have to be alike enough and the stamps close enough; and the new entry must say
    nothing that the stored one does not: outcome, action, episode, tags and metadata. What is
    merged loses its own wording, stamp, picture and pose, nothing else.
    """
    near = [
        neighbour.entry_id
        for neighbour in neighbours(scene, instruction, _alike(entry, options), _LOOKED_AT)
        if neighbour.scene >= options.merge_scene
        and neighbour.instruction >= options.merge_instruction
    ]
    for stored in read(near):
        if says_nothing_new(entry, stored):
            return stored.entry_id
    return None


def _alike(entry: NewEntry, options: MemoryOptions) -> Filter:
    """Return a filter that all pass which an entry may repeat, and few others.

    A robot sees the same place in many episodes: they must not hide the one that is repeated.
    """
    first = last = None
    if within_ns := _within_ns(options):
        first, last = entry.stamp_ns - within_ns, entry.stamp_ns + within_ns
    return Filter(
        stamp_from_ns=first, stamp_to_ns=last, episode_ids=(entry.episode_id,),
        outcomes=(entry.outcome,), frame_ids=(entry.frame_id,), tags=tuple(entry.tags),
        metadata=entry.metadata,
    )  # fmt: skip


class Sorted(NamedTuple):
    """What becomes of a batch of new entries.

    Attributes:
        new: Positions in the batch of those to store.
        stored_id: For each entry, the stored entry that it repeats, or None.
        repeats: For each entry, the position of an earlier one of the batch that it repeats.
    """

    new: Sequence[int]
    stored_id: Sequence[int | None]
    repeats: Sequence[int | None]

    @property
    def all_new(self) -> bool:
        """Whether none of the batch repeats anything."""
        return len(self.new) == len(self.stored_id)

    def kept(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> tuple[Sequence[NewEntry], Embeddings, Embeddings]:
        """Return those of the batch that are new, with copies of their embeddings."""
        if self.all_new:
            return entries, scenes.copy(), instructions.copy()
        some = list(self.new)
        return [entries[i] for i in some], scenes[some], instructions[some]

    def report(self, ids: Sequence[int]) -> Added:
        """Return the id of each entry of the batch, and whether it was merged.

        Args:
            ids: Given to the new ones, in their order.
        """
        if self.all_new:
            return Added(tuple(ids), (False,) * len(ids), ())
        given = dict(zip(self.new, ids, strict=True))
        entry_ids = [
            stored or given[position if repeats is None else repeats]
            for position, (stored, repeats) in enumerate(
                zip(self.stored_id, self.repeats, strict=True)
            )
        ]
        merged = tuple(position not in given for position in range(len(entry_ids)))
        return Added(tuple(entry_ids), merged, ())


def sort_out(
    entries: Sequence[NewEntry],
    scenes: Embeddings,
    instructions: Embeddings,
    options: MemoryOptions,
    neighbours: Neighbours,
    read: Read,
) -> Sorted:
    """Return which of a batch are new, and what the others repeat; without merging, all are new."""
    nobody: list[int | None] = [None] * len(entries)
    if not options.merges:
        return Sorted(range(len(entries)), nobody, nobody)
    new: list[int] = []
    stored_id, repeats = nobody, list(nobody)
    for i, entry in enumerate(entries):
        stored_id[i] = find_duplicate(entry, scenes[i], instructions[i], options, neighbours, read)
        if stored_id[i] is not None:
            continue
        for j in new:
            if (
                cosine(scenes[i], scenes[j]) >= options.merge_scene
                and cosine(instructions[i], instructions[j]) >= options.merge_instruction
                and _close(entry, entries[j], options)
                and says_nothing_new(entry, entries[j])
            ):
                repeats[i] = j
                break
        else:
            new.append(i)
    return Sorted(new, stored_id, repeats)


def cosine(one: Embeddings, other: Embeddings) -> float:
    """Return the cosine of two vectors, shape ``(dim,)``."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _close(entry: NewEntry, other: NewEntry, options: MemoryOptions) -> bool:
    within_ns = _within_ns(options)
    return not within_ns or abs(entry.stamp_ns - other.stamp_ns) <= within_ns


def _within_ns(options: MemoryOptions) -> int:
    return round(options.merge_within_sec * 1e9)


def says_nothing_new(entry: NewEntry, stored: NewEntry) -> bool:
    """Return whether all that an entry says, its scene and stamp aside, is stored already."""
    return (
        entry.episode_id == stored.episode_id
        and entry.frame_id == stored.frame_id
        and entry.outcome == stored.outcome
        and entry.pinned <= stored.pinned
        and _same_action(entry.action, stored.action)
        and set(entry.tags) <= set(stored.tags)
        and _within(entry.metadata, stored.metadata)
    )


def _same_action(one: Action | None, other: Action | None) -> bool:
    if one is None or other is None:
        return one is other
    return (
        one.space == other.space
        and one.shape == other.shape
        and np.array_equal(one.values, other.values)
    )


def _within(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(other.get(key) == value for key, value in one.items())
