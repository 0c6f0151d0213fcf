"""From a query to ranked matches: encode, search, rank, fetch. No ROS in it."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from vla_retrieval import diversity
from vla_retrieval.calibration import Calibration, direction_of
from vla_retrieval.deadline import Deadline
from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import EntryNotFoundError, InvalidInputError, MemoryFormatError
from vla_retrieval.memory import Memory
from vla_retrieval.memory.results import SearchResult
from vla_retrieval.projection import projected_fingerprint
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import (
    Embeddings,
    Entry,
    Known,
    Match,
    Modality,
    NewEntry,
    Probe,
    Query,
    Remembered,
    Retrieval,
    RgbImage,
    StageTimes,
    Target,
)

_log = logging.getLogger(__name__)

_PAUSE_SEC = 0.0005
"""Before the next search, so that a writer gets its turn."""


class Retriever:
    """Remembers scene-instruction pairs and answers queries about them.

    Calls may come from several threads: the encoder and the memory guard themselves.
    """

    def __init__(self, encoder: Encoder, memory: Memory, thumbnail_px: int = 160) -> None:
        """Join an encoder and the memory that was opened with its fingerprint.

        Args:
            encoder: Makes the embeddings.
            memory: Holds them.
            thumbnail_px: Longer side of the stored thumbnails in pixels; 0 stores none.
        """
        self.encoder = encoder
        self.memory = memory
        self._thumbnail_px = thumbnail_px
        # The stored text and what it says, replaced together: several threads may look.
        self._calibration: tuple[str | None, Calibration | None] = (None, None)

    def remember(
        self,
        image: RgbImage,
        entry: NewEntry,
        scene: Embeddings | None = None,
        while_writing: AbstractContextManager[None] | None = None,
    ) -> Remembered:
        """Store one pair and say what became of it, once that is committed.

        Args:
            image: The scene.
            entry: Everything else; its thumbnail is made here unless it brings one.
            scene: The image's embedding, shape ``(dim,)``, where it is known already.
            while_writing: Entered before the memory is written to, and left after it; what it
                raises keeps the pair from being stored.

        Raises:
            InvalidInputError: If the image cannot be encoded.
            MemoryFullError: If a bound is reached and all that could go are pinned.
            StorageError: If the memory cannot be written; nothing is stored then.
        """
        # First, because it says of an image that is none what it should have been.
        scenes = self.encoder.encode_images([image]) if scene is None else scene[None]
        instructions = self.encoder.encode_instructions([entry.instruction])
        if not entry.thumbnail and self._thumbnail_px:
            thumbnail = make_thumbnail(image, self._thumbnail_px)
            entry = dataclasses.replace(entry, thumbnail=thumbnail)
        with while_writing or nullcontext():
            added = self.memory.add_with_report([entry], scenes, instructions)
        return Remembered(added.entry_ids[0], added.merged[0], added.evicted)

    def retrieve(
        self,
        query: Query,
        *,
        scene: Embeddings | None = None,
        thumbnails: bool = False,
        deadline: Deadline | None = None,
        times: StageTimes | None = None,
        counts_as_use: bool = True,
    ) -> Retrieval:
        """Return the best matches of a query, ranked.

        Args:
            query: What is asked.
            scene: The query image's embedding, shape ``(dim,)``, where it is known already.
            thumbnails: Whether the matches' entries carry their thumbnails.
            deadline: Checked before each stage; none by default.
            times: Stages that the caller has timed already, to be filled up in place.
            counts_as_use: Whether the matches count as used, for evicting the least used.

        Raises:
            DeadlineExceededError: If the deadline passes before the answer is whole.
            InvalidInputError: If the query image cannot be encoded.
        """
        start = time.perf_counter()
        deadline = deadline or Deadline()
        times = times or StageTimes()
        image_vector, text_vector = self._encode(query, scene, deadline, times)
        probes = make_probes(query.target, query.scene_weight, image_vector, text_vector)
        found, entries, known, times.fetch_sec = self._search(query, probes, thumbnails, deadline)
        times.filter_sec, times.search_sec = found.filter_sec, found.search_sec
        matches = tuple(
            Match(entry, rank, c.score, c.scene_score, c.instruction_score)
            for rank, (c, entry) in enumerate(zip(found.candidates, entries, strict=True), start=1)
        )
        if counts_as_use:
            self.memory.note_use([match.entry.entry_id for match in matches])
        times.total_sec += time.perf_counter() - start
        head = ("", "") if found.head is None else (found.head.digest, found.head.method)
        return Retrieval(
            matches, found.memory_size, found.eligible_size, found.exact, times, *known, *head
        )

    def _search(
        self, query: Query, probes: Sequence[Probe], thumbnails: bool, deadline: Deadline
    ) -> tuple[SearchResult, list[Entry], tuple[Known, float], float]:
        """Return what was found, once its entries are read.

        Returns:
            The candidates, their entries in the same order, what is known with its confidence,
            and the seconds for reading.

        Raises:
            MemoryFormatError: If the index has entries that the database has not.
        """
        missing = ""
        while True:
            deadline.check("the search")
            # Ids are not given out twice: what is missing cannot be in an index that follows.
            follows = bool(missing) and self.memory.shows_all_commits()
            wanted = diversity.pool(query.k) if query.diversity else query.k
            found = self.memory.search(probes, wanted, filter=query.filter)
            known = self._judge(query, found)
            # Not in the search: what is known depends on the best score, whether it is wanted
            # or not.
            found = dataclasses.replace(
                found, candidates=tuple(c for c in found.candidates if c.score >= query.min_score)
            )
            deadline.check("reading the matched entries")
            start = time.perf_counter()
            try:
                if query.diversity:
                    found = self._diverse(query, probes, found)
                ids = [candidate.entry_id for candidate in found.candidates]
                entries = self.memory.get_many(ids, thumbnails=thumbnails)
            except EntryNotFoundError as error:
                if follows and str(error) == missing:
                    raise MemoryFormatError(
                        f"{self.memory.stats().directory}: its index has entries that its database "
                        f"has not: {error} Close the memory, and run `memory check --drop-damaged` "
                        "on it."
                    ) from error
                missing = str(error)
                time.sleep(_PAUSE_SEC)
                continue  # forgotten since the search, which finds others in its place
            return found, entries, known, time.perf_counter() - start

    def _judge(self, query: Query, found: SearchResult) -> tuple[Known, float]:
        """Return whether anything like the query was found, and the confidence in that."""
        if not found.eligible_size:
            return Known.NO, 0.0
        calibration = self._stored_calibration()
        if calibration is None or not found.candidates:
            return Known.NOT_CALIBRATED, math.nan
        direction = direction_of(
            image=query.image is not None, instruction=query.instruction is not None,
            target=query.target,
        )  # fmt: skip
        return calibration.judge(
            direction, query.scene_weight, found.candidates[0].score, self.memory.similarity,
            projected_fingerprint(self.encoder.fingerprint, found.head),
        )  # fmt: skip

    def _stored_calibration(self) -> Calibration | None:
        """Return the memory's calibration, read anew when another one was stored."""
        text = self.memory.calibration()
        read, calibration = self._calibration
        if text is not read:
            try:
                calibration = None if text is None else Calibration.from_json(text)
            except InvalidInputError as error:
                _log.warning("nothing is known: %s", error)
                calibration = None
            self._calibration = text, calibration
        return calibration

    def _diverse(self, query: Query, probes: Sequence[Probe], found: SearchResult) -> SearchResult:
        """Return the candidates that differ, in the order in which they are chosen.

        Two of them are alike as far as the halves are that the query is compared with.
        """
        looked_at = found.candidates[: diversity.pool(diversity.MOST)]
        ids = [candidate.entry_id for candidate in looked_at]
        scores = np.array([candidate.score for candidate in found.candidates], dtype=np.float64)
        likeness = np.zeros((len(ids), len(ids)))
        total = sum(probe.weight for probe in probes) or 1.0
        for modality in Modality:
            weight = sum(probe.weight for probe in probes if probe.modality is modality) / total
            if weight and ids:
                vectors = self.memory.embeddings_of(ids, modality)
                if found.head is not None:  # alike as far as the scores can tell
                    vectors = found.head.project(vectors, modality)
                likeness += weight * diversity.cosines(vectors)
        chosen = diversity.choose(scores, likeness, query.k, query.diversity)
        candidates = tuple(found.candidates[i] for i in chosen)
        return dataclasses.replace(found, candidates=candidates)

    def _encode(
        self, query: Query, scene: Embeddings | None, deadline: Deadline, times: StageTimes
    ) -> tuple[Embeddings | None, Embeddings | None]:
        """Return the embeddings of the query's two parts, None for a missing part."""
        image_vector = text_vector = None
        if query.image is not None:
            deadline.check("encoding the image")
            start = time.perf_counter()
            image_vector = (
                scene if scene is not None else self.encoder.encode_images([query.image])[0]
            )
            times.encode_image_sec += time.perf_counter() - start
        if query.instruction is not None:
            deadline.check("encoding the instruction")
            start = time.perf_counter()
            text_vector = self.encoder.encode_instructions([query.instruction])[0]
            times.encode_instruction_sec += time.perf_counter() - start
        return image_vector, text_vector


def make_probes(
    target: Target,
    scene_weight: float,
    image: Embeddings | None,
    instruction: Embeddings | None,
) -> Sequence[Probe]:
    """Return what is compared with which half of the entries, and its weight.

    The weights add up to 1. With ``Target.PAIR`` the image is compared with scenes and the
    instruction with instructions; where one part is missing, the other stands in for it. With
    another target both parts are compared with that half, the image at ``scene_weight``.

    Args:
        target: What the query is compared with.
        scene_weight: In [0, 1].
        image: Embedding of the query image, shape ``(dim,)``, or None.
        instruction: Embedding of the query instruction, shape ``(dim,)``, or None.

    Raises:
        ValueError: If both parts are None.
    """
    parts = [
        (part, source)
        for part, source in ((image, Modality.SCENE), (instruction, Modality.INSTRUCTION))
        if part is not None
    ]
    if not parts:
        raise ValueError("make_probes: expected an image or an instruction vector, got neither")
    if target is Target.PAIR:
        halves = (Modality.SCENE, scene_weight), (Modality.INSTRUCTION, 1.0 - scene_weight)
        return [
            Probe(modality, part, weight, source)
            for (modality, weight), (part, source) in zip(
                halves, (parts[0], parts[-1]), strict=True
            )
        ]
    modality = Modality.SCENE if target is Target.SCENES else Modality.INSTRUCTION
    weights = [1.0] if len(parts) == 1 else [scene_weight, 1.0 - scene_weight]
    return [
        Probe(modality, part, weight, source)
        for (part, source), weight in zip(parts, weights, strict=True)
    ]
