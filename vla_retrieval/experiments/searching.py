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
from vla_retrieval.experiments.frame_store import FrameStore
from vla_retrieval.experiments.ranked import StoredRankings
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.experiments.stages import Progress, StageSeconds
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
        self._asked: tuple[Sequence[Frame], Sequence[Frame]] | None = None

    def rankings(
        self, frames: Sequence[Frame], direction: str, seconds: StageSeconds, progress: Progress
    ) -> tuple[Sequence[Frame], StoredRankings]:
        """Search for the queries that some frames make in a direction.

        Returns:
            The frames that ask, one per query, and their rankings.
        """
        asked = asking(self._readable(frames), direction)
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

    def thumbnails(self, frames: Sequence[Frame]) -> list[bytes]:
        """Return frames' small pictures, as JPEG."""
        entry_ids = self._store.entries_of(frames).tolist()
        return [e.thumbnail for e in self._memory.get_many(entry_ids, thumbnails=True)]

    def gallery_embeddings(self, rows: Sequence[int], modality: Modality) -> Embeddings:
        """Return one half of some gallery entries as it is compared, shape ``(n, width)``."""
        return self._memory.vectors_of(self._entries[list(rows)].tolist(), modality)

    def _readable(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Return those that have a picture; the same ones are asked in every direction."""
        if self._asked is None or self._asked[0] is not frames:
            self._asked = (
                frames,
                Chosen(frames, np.flatnonzero(self._store.entries_of(frames) >= 0)),
            )
        return self._asked[1]

    def _search(
        self, asking: NDArray[np.int64], direction: str, seconds: StageSeconds
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return positions and scores for some entries that ask."""
        by_image, by_text, target = DIRECTIONS[direction]
        ids = asking.tolist()
        scenes = self._memory.embeddings_of(ids, Modality.SCENE) if by_image else None
        texts = self._memory.embeddings_of(ids, Modality.INSTRUCTION) if by_text else None
        depth = self._settings.depth
        entries = np.full((len(asking), depth), PADDING, np.int64)
        scores = np.full(entries.shape, np.nan)
        for row in range(len(asking)):
            probes = make_probes(
                target, self._settings.scene_weight,
                None if scenes is None else scenes[row], None if texts is None else texts[row],
            )  # fmt: skip
            started = time.perf_counter()
            found = self._memory.search(probes, depth, filter=self._filter)
            seconds.add("search", time.perf_counter() - started)
            count = len(found.candidates)
            entries[row, :count] = [c.entry_id for c in found.candidates]
            scores[row, :count] = [c.score for c in found.candidates]
        # In order already: positions ascend as entry ids do.
        positions = np.searchsorted(self._entries, entries)
        return np.where(entries >= 0, positions, PADDING), scores

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
