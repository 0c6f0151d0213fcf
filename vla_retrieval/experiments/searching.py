"""Asks a memory everything that an evaluation wants to know."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.evaluation.frame_lists import Chosen
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.run import PADDING
from vla_retrieval.experiments.frame_store import FrameStore, Progress, StageSeconds
from vla_retrieval.experiments.ranked import StoredRankings
from vla_retrieval.experiments.settings import ExperimentSettings
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


_ROWS = 256
_FORMAT = 1
_FOLDER = "rankings"


def asking(frames: Sequence[Frame], direction: str) -> Sequence[Frame]:
    """Return the frames that ask in a direction: where only words do, the first of each wording."""
    if DIRECTIONS[direction][0]:
        return frames
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, frame in enumerate(frames):
        first.setdefault(frame.instruction, place)
        last[frame.instruction] = place
    return Chosen(frames, [first[text] for text in sorted(last, key=last.__getitem__)])


class Searcher:
    """Searches the gallery's part of a frame store.

    Args:
        store: All frames.
        gallery: Those that make the memory, in order.
        settings: How many entries are retrieved, and how.
        work: Folder that keeps rankings; a second call goes on from there.
    """

    def __init__(
        self, store: FrameStore, gallery: Sequence[Frame], settings: ExperimentSettings, work: Path
    ) -> None:
        """Number the gallery from 0 on."""
        self._memory: Memory = store.memory
        self._store = store
        self._settings = settings
        entries = store.entries_of(gallery)
        readable = np.flatnonzero(entries >= 0)
        self.gallery = Chosen(gallery, readable)
        self._entries = entries[readable]
        others = np.setdiff1d(np.array(self._memory.entry_ids(), np.int64), self._entries)
        self._filter = Filter(exclude_ids=tuple(others.tolist()))
        self._folder = work / _FOLDER
        self._folder.mkdir(exist_ok=True)
        self._used: set[str] = set()

    def rankings(
        self, frames: Sequence[Frame], direction: str, seconds: StageSeconds, progress: Progress
    ) -> tuple[Sequence[Frame], StoredRankings]:
        """Search for the queries that some frames make in a direction.

        Returns:
            The frames that ask, one per query, and their rankings.
        """
        entries = self._store.entries_of(frames)
        asked = asking(Chosen(frames, np.flatnonzero(entries >= 0)), direction)
        entries = self._store.entries_of(asked)
        name = self._name(direction, entries)
        self._used.add(name)
        found = StoredRankings(self._folder / name, self._settings.depth)
        for start in range(len(found), len(entries), _ROWS):
            found.append(*self._search(entries[start : start + _ROWS], direction, seconds))
            progress(f"searching: {direction}", len(found), len(entries))
        return asked, found

    def forget_others(self) -> None:
        """Remove the rankings of earlier evaluations with other settings."""
        for path in self._folder.iterdir():
            if path.name not in self._used:
                path.unlink()

    def thumbnail(self, frame: Frame) -> bytes:
        """Return a frame's small picture, as JPEG."""
        (entry_id,) = self._store.entries_of([frame]).tolist()
        return self._memory.get(entry_id, thumbnail=True).thumbnail

    def gallery_embeddings(self, rows: Sequence[int], modality: Modality) -> Embeddings:
        """Return one half of some gallery entries as it is compared, shape ``(n, width)``."""
        return self._memory.vectors_of(self._entries[list(rows)].tolist(), modality)

    def _search(
        self, asking: NDArray[np.int64], direction: str, seconds: StageSeconds
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return positions and scores for some entries that ask."""
        by_image, by_text, target = DIRECTIONS[direction]
        scenes, texts = (self._memory.embeddings_of(asking.tolist(), m) for m in Modality)
        depth = self._settings.depth
        positions = np.full((len(asking), depth), PADDING, np.int64)
        scores = np.full(positions.shape, np.nan)
        for row in range(len(asking)):
            probes = make_probes(
                target, self._settings.scene_weight,
                scenes[row] if by_image else None, texts[row] if by_text else None,
            )  # fmt: skip
            started = time.perf_counter()
            found = self._memory.search(probes, depth, filter=self._filter)
            seconds.add("search", time.perf_counter() - started)
            count = len(found.candidates)
            # In order already: positions ascend as entry ids do.
            ids = np.array([c.entry_id for c in found.candidates], np.int64)
            positions[row, :count] = np.searchsorted(self._entries, ids)
            scores[row, :count] = [c.score for c in found.candidates]
        return positions, scores

    def _name(self, direction: str, asking: NDArray[np.int64]) -> str:
        """Return the name of the file for rankings: another one whenever they would differ."""
        deciding = [
            _FORMAT, direction, self._settings.depth, self._settings.scene_weight,
            str(self._memory.compared), self._memory.similarity.value,
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(deciding).encode())
        for entries in (self._entries, asking):
            digest.update(len(entries).to_bytes(8, "little") + entries.tobytes())
        return digest.hexdigest()[:32]
