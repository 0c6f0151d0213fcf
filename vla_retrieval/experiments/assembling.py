"""From who answered what to a whole evaluation: the same for bags and for a running node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame, Recording
from vla_retrieval.evaluation.relevance import Labels, normalise, read_labels
from vla_retrieval.evaluation.results import DirectionResult, Evaluation, KnownResult, MapPoint
from vla_retrieval.evaluation.run import Run
from vla_retrieval.evaluation.splits import Split, split_frames
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.scoring import Ranked
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.types import Embeddings, Modality

_RELEVANT = {
    "instruction": "Relevant is an entry with the query's instruction, however it is written.",
    "episode": "Relevant is an entry of the query's episode.",
    "labels": "Relevant is an entry whose instruction has the task label of the query's.",
    "qrels": "Relevant is what the qrels file says.",
}
_ON_THE_MAP = 600  # entries; each is two points


class Answerer(Protocol):
    """Who answers queries: a memory that is searched, or a node that was asked.

    Attributes:
        refused: Why frames have no picture -> how many.
    """

    refused: Mapping[str, int]

    @property
    def gallery(self) -> tuple[Frame, ...]:
        """Entries; rankings name them by position."""
        ...

    def rank(self, frames: Sequence[Frame], direction: str) -> tuple[tuple[Frame, ...], Run]:
        """Return those of some frames that were answered, and the answers."""
        ...

    def thumbnail(self, frame: Frame) -> bytes:
        """Return a frame's small picture, as JPEG."""
        ...

    def gallery_embeddings(self, rows: Sequence[int], modality: Modality) -> Embeddings:
        """Return one half of some entries, shape ``(n, dim)``."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What an evaluation leaves.

    Attributes:
        evaluation: The numbers.
        ranked: The rankings behind them, by direction.
    """

    evaluation: Evaluation
    ranked: Mapping[str, Ranked]


def split_recordings(recordings: Sequence[Recording], settings: ExperimentSettings) -> Split:
    """Return which frames make the memory and which ask.

    Raises:
        InvalidInputError: As ``split_frames``, or if the file with labels cannot be read.
    """
    frames = [frame for recording in recordings for frame in recording.frames]
    group = normalise
    if settings.relevance == "labels" and settings.relevance_file is not None:
        group = Labels(read_labels(settings.relevance_file)).__call__
    return split_frames(frames, settings.split, group)


def in_order(recordings: Sequence[Recording], *chosen: Sequence[Frame]) -> list[Frame]:
    """Return chosen frames in the order of the recordings."""
    used = {frame.query_id for frames in chosen for frame in frames}
    frames = (frame for recording in recordings for frame in recording.frames)
    return [frame for frame in frames if frame.query_id in used]


def check_answerable(gallery: Sequence[Frame], queries: Sequence[Frame]) -> None:
    """Raise InvalidInputError where nobody asks, or nothing can be found."""
    if not gallery or not queries:
        raise InvalidInputError(
            "split", "frames that make the memory and frames that ask for them",
            f"{len(gallery)} and {len(queries)}",
            "Record each instruction in two episodes at least, or name other bags.",
        )  # fmt: skip


def assemble(
    answerer: Answerer,
    recordings: Sequence[Recording],
    split: Split,
    settings: ExperimentSettings,
    model: Mapping[str, str],
    deciding: Mapping[str, Any],
) -> Outcome:
    """Have every direction answered and scored.

    Args:
        answerer: Answers.
        recordings: What was read.
        split: Who asks.
        settings: What is wanted.
        model: What the embeddings are of, to be shown.
        deciding: The same for the hash, as JSON has it.
    """
    ranked: dict[str, Ranked] = {}
    results: dict[str, DirectionResult] = {}
    known: dict[str, KnownResult] = {}
    notes = [note for recording in recordings for note in recording.notes]
    notes += [*split.notes, _RELEVANT[settings.relevance], *_refusals(answerer)]
    for direction in DIRECTIONS:
        frames, run = answerer.rank(split.queries, direction)
        qrels, said = scoring.judge(frames, answerer.gallery, settings)
        ranked[direction] = Ranked(frames, run, qrels)
        results[direction] = scoring.score(
            ranked[direction], answerer.gallery, settings, answerer.thumbnail
        )
        notes += [note for note in said if note not in notes]
        if split.absent:
            absent, absent_run = answerer.rank(split.absent, direction)
            found = scoring.try_known(
                (frames, run.scores[:, 0]), (absent, absent_run.scores[:, 0]), settings
            )
            if isinstance(found, KnownResult):
                known[direction] = found
            else:
                notes.append(f"Known or not, {direction}: {found}")
    evaluation = Evaluation(
        hash=scoring.digest({**settings.deciding(), **deciding}, answerer.gallery, ranked),
        settings={**model, **settings.shown()},
        counts=_counts(recordings, split, answerer),
        notes=tuple(notes),
        directions=results,
        known=known,
        embedding_map=_map(answerer.gallery, answerer.gallery_embeddings, settings.seed),
    )
    return Outcome(evaluation, ranked)


def _refusals(answerer: Answerer) -> list[str]:
    return [
        f"{count} image(s) could not be decoded: {reason}."
        for reason, count in sorted(answerer.refused.items())
    ]


def _counts(recordings: Sequence[Recording], split: Split, answerer: Answerer) -> dict[str, int]:
    found: Counter[str] = Counter()
    for recording in recordings:
        found["bags"] += 1
        found["images"] += recording.images
        found["frames"] += len(recording.frames)
        found["episodes"] += len(recording.episodes)
        found["images refused"] += sum(recording.refused.values())
    found["images refused"] += sum(answerer.refused.values())
    return {**found, **split.counts}


def _map(
    gallery: Sequence[Frame],
    embeddings_of: Callable[[Sequence[int], Modality], Embeddings],
    seed: int,
) -> tuple[MapPoint, ...]:
    """Return some entries in the plane of the two largest principal components of both halves."""
    count = len(gallery)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(count, min(count, _ON_THE_MAP), replace=False)).tolist()
    halves = [embeddings_of(rows, modality) for modality in Modality]
    # Each half about its own mean: the gap between modalities would be all there is to see.
    centred = np.concatenate([half - half.mean(axis=0) for half in halves]).astype(np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    labels = [gallery[row].instruction for row in rows]
    kinds = [modality.value for modality in Modality for _ in rows]
    return tuple(
        MapPoint(float(point[0]), float(point[1] if len(point) > 1 else 0.0), kind, label)
        for point, kind, label in zip(plane, kinds, labels * len(Modality), strict=True)
    )
