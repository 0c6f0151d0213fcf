"""Evaluates retrieval on recorded bags, as fast as the machine allows and always the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame, Recording
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.evaluation.relevance import Labels, normalise, read_labels
from vla_retrieval.evaluation.results import DirectionResult, Evaluation, KnownResult, MapPoint
from vla_retrieval.evaluation.splits import Split, split_frames
from vla_retrieval.experiments import frame_store, scoring
from vla_retrieval.experiments.frame_store import FrameStore, Progress, StageSeconds
from vla_retrieval.experiments.scoring import Ranked
from vla_retrieval.experiments.searching import DIRECTIONS, Searcher
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.projection import Head
from vla_retrieval.types import Modality

_RELEVANT = {
    "instruction": "Relevant is an entry with the query's instruction, however it is written.",
    "episode": "Relevant is an entry of the query's episode.",
    "labels": "Relevant is an entry whose instruction has the task label of the query's.",
    "qrels": "Relevant is what the qrels file says.",
}
_ON_THE_MAP = 600  # entries; each is two points


@dataclass(frozen=True)
class Outcome:
    """What an evaluation leaves.

    Attributes:
        evaluation: The numbers.
        ranked: The rankings behind them, by direction.
    """

    evaluation: Evaluation
    ranked: Mapping[str, Ranked]


def evaluate_bags(
    paths: Sequence[Path],
    encoder: Encoder,
    settings: ExperimentSettings,
    work: Path,
    progress: Progress = lambda doing, done, total: None,
    head: Head | None = None,
) -> Outcome:
    """Evaluate retrieval over bags.

    Args:
        paths: Of rosbag2 folders or files.
        encoder: Makes the embeddings.
        settings: What is wanted.
        work: Folder that keeps what was embedded; a second call goes on from there.
        progress: Told how far it is.
        head: Projects embeddings before they are compared, or None. The work folder keeps
            embeddings, so one serves evaluations with several heads and without.

    Raises:
        HeadMismatchError: If the head was made for another encoder.
        InvalidInputError: If a bag cannot be evaluated, or the work folder is of others.
        StorageError: If the work folder cannot be used.
    """
    recordings = read_recordings(paths, settings.reading)
    seconds = StageSeconds()
    split = _split(recordings, settings)
    needed = _in_order(recordings, split)
    source = frame_store.fingerprint_of(paths)
    with frame_store.open_store(work, encoder, settings.similarity, source, head) as memory:
        store = frame_store.fill(memory, needed, encoder, seconds, progress)
        return _evaluate(store, recordings, split, encoder, settings, seconds, progress)


def _split(recordings: Sequence[Recording], settings: ExperimentSettings) -> Split:
    frames = [frame for recording in recordings for frame in recording.frames]
    group = normalise
    if settings.relevance == "labels" and settings.relevance_file is not None:
        group = Labels(read_labels(settings.relevance_file)).__call__
    return split_frames(frames, settings.split, group)


def _in_order(recordings: Sequence[Recording], split: Split) -> list[Frame]:
    used = {f.query_id for f in (*split.gallery, *split.queries, *split.absent)}
    frames = (frame for recording in recordings for frame in recording.frames)
    return [frame for frame in frames if frame.query_id in used]


def _evaluate(
    store: FrameStore,
    recordings: Sequence[Recording],
    split: Split,
    encoder: Encoder,
    settings: ExperimentSettings,
    seconds: StageSeconds,
    progress: Progress,
) -> Outcome:
    searcher = Searcher(store, split.gallery, settings.depth, settings.scene_weight)
    if not searcher.gallery or not split.queries:
        raise InvalidInputError(
            "split", "frames that make the memory and frames that ask for them",
            f"{len(searcher.gallery)} and {len(split.queries)}",
            "Record each instruction in two episodes at least, or name other bags.",
        )  # fmt: skip
    ranked: dict[str, Ranked] = {}
    results: dict[str, DirectionResult] = {}
    known: dict[str, KnownResult] = {}
    notes = [note for recording in recordings for note in recording.notes]
    notes += [*split.notes, _RELEVANT[settings.relevance], *_refusals(store)]
    for direction in DIRECTIONS:
        asked = searcher.asked(split.queries, direction)
        run, top = searcher.run(asked, direction, seconds, progress)
        qrels, said = scoring.judge(asked.frames, searcher.gallery, settings)
        ranked[direction] = Ranked(asked.frames, run, qrels)
        results[direction] = scoring.score(
            ranked[direction], searcher.gallery, settings, searcher.thumbnail
        )
        notes += [note for note in said if note not in notes]
        if split.absent:
            absent = searcher.asked(split.absent, direction)
            _, absent_top = searcher.run(absent, direction, seconds, progress)
            found = scoring.try_known((asked.frames, top), (absent.frames, absent_top), settings)
            if isinstance(found, KnownResult):
                known[direction] = found
            else:
                notes.append(f"Known or not, {direction}: {found}")
    deciding = {**settings.deciding(), "fingerprint": asdict(store.memory.compared)}
    evaluation = Evaluation(
        hash=scoring.digest(deciding, searcher.gallery, ranked),
        settings={**_model(encoder, store.memory.head), **settings.shown()},
        counts=_counts(recordings, split, store),
        notes=tuple(notes),
        directions=results,
        known=known,
        times={name: scoring.summarise(calls) for name, calls in seconds.calls.items()},
        embedding_map=_map(searcher, settings.seed),
    )
    return Outcome(evaluation, ranked)


def _refusals(store: FrameStore) -> list[str]:
    return [
        f"{count} image(s) could not be decoded: {reason}."
        for reason, count in sorted(store.refused.items())
    ]


def _model(encoder: Encoder, head: Head | None) -> dict[str, str]:
    return {
        "model": encoder.fingerprint.model,
        "weights": encoder.fingerprint.weights,
        "head": "none" if head is None else f"{head.method} {head.digest}",
    }


def _counts(recordings: Sequence[Recording], split: Split, store: FrameStore) -> dict[str, int]:
    found: Counter[str] = Counter()
    for recording in recordings:
        found["bags"] += 1
        found["images"] += recording.images
        found["frames"] += len(recording.frames)
        found["episodes"] += len(recording.episodes)
        found["images refused"] += sum(recording.refused.values())
    found["images refused"] += sum(store.refused.values())
    return {**found, **split.counts}


def _map(searcher: Searcher, seed: int) -> tuple[MapPoint, ...]:
    """Return some entries in the plane of the two largest principal components of both halves."""
    count = len(searcher.gallery)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(count, min(count, _ON_THE_MAP), replace=False)).tolist()
    halves = [searcher.gallery_embeddings(rows, modality) for modality in Modality]
    # Each half about its own mean: the gap between modalities would be all there is to see.
    centred = np.concatenate([half - half.mean(axis=0) for half in halves]).astype(np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes[:2].T
    labels = [searcher.gallery[row].instruction for row in rows]
    kinds = [modality.value for modality in Modality for _ in rows]
    return tuple(
        MapPoint(float(point[0]), float(point[1] if len(point) > 1 else 0.0), kind, label)
        for point, kind, label in zip(plane, kinds, labels * len(Modality), strict=True)
    )
