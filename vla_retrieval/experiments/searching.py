"""Asks a memory everything that an evaluation wants to know."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.run import PADDING, Run
from vla_retrieval.experiments.frame_store import FrameStore, Progress, StageSeconds
from vla_retrieval.memory import Memory
from vla_retrieval.retriever import make_probes
from vla_retrieval.types import Embeddings, Filter, Modality, Target

DIRECTIONS: Mapping[str, tuple[bool, bool, Target]] = {
    "scene to instructions": (True, False, Target.INSTRUCTIONS),
    "scene to scenes": (True, False, Target.SCENES),
    "instruction to scenes": (False, True, Target.SCENES),
    "instruction to instructions": (False, True, Target.INSTRUCTIONS),
    "pair": (True, True, Target.PAIR),
}
"""Name to whether the image asks, whether the instruction does, and what is searched."""


def asking(frames: Sequence[Frame], direction: str) -> list[Frame]:
    """Return the frames that ask in a direction: where only words do, the first of each wording."""
    if DIRECTIONS[direction][0]:
        return list(frames)
    first = list({frame.instruction: frame for frame in reversed(frames)}.values())
    first.reverse()
    return first


@dataclass(frozen=True)
class Asked:
    """The queries of one direction: each frame, or where only words ask, each wording once.

    Attributes:
        frames: One per query.
        scenes: Shape ``(m, dim)``.
        instructions: Shape ``(m, dim)``.
    """

    frames: tuple[Frame, ...]
    scenes: Embeddings
    instructions: Embeddings

    @property
    def query_ids(self) -> tuple[str, ...]:
        """Theirs."""
        return tuple(frame.query_id for frame in self.frames)


class Searcher:
    """Searches the gallery's part of a frame store.

    Args:
        store: All frames.
        gallery: Those that make the memory, in order.
        depth: Entries retrieved per query.
        scene_weight: Of the scene in the pair.
    """

    def __init__(
        self, store: FrameStore, gallery: Sequence[Frame], depth: int, scene_weight: float
    ) -> None:
        """Number the gallery from 0 on."""
        self._memory: Memory = store.memory
        self._id_of = dict(
            zip((f.query_id for f in store.frames), store.entry_ids.tolist(), strict=True)
        )
        self.gallery = tuple(frame for frame in gallery if frame.query_id in self._id_of)
        ids = [self._id_of[frame.query_id] for frame in self.gallery]
        self._number_of = {entry_id: number for number, entry_id in enumerate(ids)}
        others = set(self._memory.entry_ids()) - set(ids)
        self._filter = Filter(exclude_ids=tuple(sorted(others)))
        self._depth = depth
        self._scene_weight = scene_weight

    def asked(self, frames: Sequence[Frame], direction: str) -> Asked:
        """Return the queries that some frames make in a direction."""
        readable = [frame for frame in frames if frame.query_id in self._id_of]
        readable = asking(readable, direction)
        ids = [self._id_of[frame.query_id] for frame in readable]
        halves = {m: self._memory.embeddings_of(ids, m) for m in Modality}
        return Asked(tuple(readable), halves[Modality.SCENE], halves[Modality.INSTRUCTION])

    def run(self, asked: Asked, direction: str, seconds: StageSeconds, progress: Progress) -> Run:
        """Search for every query; return the rankings."""
        by_image, by_text, target = DIRECTIONS[direction]
        # Whole from the start: lists of Python's numbers would take five times as much.
        entries = np.full((len(asked.frames), self._depth), PADDING, np.int64)
        scores = np.full(entries.shape, np.nan)
        for row in range(len(asked.frames)):
            probes = make_probes(
                target, self._scene_weight,
                asked.scenes[row] if by_image else None,
                asked.instructions[row] if by_text else None,
            )  # fmt: skip
            started = time.perf_counter()
            found = self._memory.search(probes, self._depth, filter=self._filter)
            seconds.add("search", time.perf_counter() - started)
            count = len(found.candidates)
            # In order already: positions ascend as entry ids do.
            entries[row, :count] = [self._number_of[c.entry_id] for c in found.candidates]
            scores[row, :count] = [c.score for c in found.candidates]
            progress(f"searching: {direction}", row + 1, len(asked.frames))
        return Run(asked.query_ids, entries, scores)

    def thumbnail(self, frame: Frame) -> bytes:
        """Return a frame's small picture, as JPEG."""
        return self._memory.get(self._id_of[frame.query_id], thumbnail=True).thumbnail

    def gallery_embeddings(self, rows: Sequence[int], modality: Modality) -> Embeddings:
        """Return one half of some gallery entries as it is compared, shape ``(n, width)``."""
        ids = [self._id_of[self.gallery[row].query_id] for row in rows]
        return self._memory.vectors_of(ids, modality)
