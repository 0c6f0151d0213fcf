"""From rankings to numbers, examples and a hash: the same for bags and for a running node."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.calibration import TopScores
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation import averaging, metrics, relevance, trec
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.known import measure_known
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.results import (
    DirectionResult,
    Example,
    KnownResult,
    Shown,
    StageSummary,
)
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.settings import ExperimentSettings

_EXAMPLES = 6
_MATCHES_SHOWN = 5
_BINS = 30

Picture = Callable[[Frame], bytes]


@dataclass(frozen=True)
class Ranked:
    """One direction's rankings.

    Attributes:
        frames: One per query.
        run: Their rankings, of gallery positions.
        qrels: Their relevance.
    """

    frames: tuple[Frame, ...]
    run: Run
    qrels: Qrels


def judge(
    frames: Sequence[Frame], gallery: Sequence[Frame], settings: ExperimentSettings
) -> tuple[Qrels, tuple[str, ...]]:
    """Return which gallery positions are relevant to which query, and sentences about it.

    Raises:
        InvalidInputError: If the file with labels or qrels cannot be read.
    """
    query_ids = tuple(frame.query_id for frame in frames)
    numbers = range(len(gallery))
    texts = [frame.instruction for frame in frames], [frame.instruction for frame in gallery]
    if settings.relevance == "instruction":
        return relevance.by_instruction(query_ids, texts[0], numbers, texts[1]), ()
    if settings.relevance == "episode":
        keys = [f.episode_id for f in frames], [f.episode_id for f in gallery]
        return relevance.by_key(query_ids, keys[0], numbers, keys[1]), ()
    assert settings.relevance_file is not None
    if settings.relevance == "labels":
        labels = relevance.read_labels(settings.relevance_file)
        return relevance.by_label(query_ids, texts[0], numbers, texts[1], labels), ()
    return relevance.for_gallery(trec.read_qrels(settings.relevance_file), query_ids, numbers)


def score(
    ranked: Ranked, gallery: Sequence[Frame], settings: ExperimentSettings, picture: Picture
) -> DirectionResult:
    """Return how one direction did, with queries to look at."""
    measured = metrics.evaluate(ranked.qrels, ranked.run, settings.ks)
    result = averaging.average(
        measured, [frame.instruction for frame in ranked.frames], seed=settings.seed
    )
    answerable = np.flatnonzero(measured.answerable)
    if not len(answerable):
        return result
    reciprocal = measured.values["mrr"]
    grades = metrics.retrieved_grades(ranked.qrels, ranked.run)
    top = ranked.run.scores[:, 0]
    by_rank = answerable[np.lexsort((-top[answerable], -reciprocal[answerable]))]
    wrong = answerable[(grades[answerable, 0] == 0) & np.isfinite(top[answerable])]
    confident = wrong[np.argsort(-top[wrong], kind="stable")]

    def shown(rows: NDArray[np.int64]) -> tuple[Example, ...]:
        return tuple(
            _example(ranked, int(row), grades, float(reciprocal[row]), gallery, picture)
            for row in _of_different_instructions(rows, ranked.frames)
        )

    return replace(
        result, best=shown(by_rank), worst=shown(by_rank[::-1]), confidently_wrong=shown(confident)
    )


def score_known(
    answerable: tuple[Sequence[Frame], NDArray[np.float64]],
    absent: tuple[Sequence[Frame], NDArray[np.float64]],
    settings: ExperimentSettings,
) -> KnownResult:
    """Return how well top scores tell queries that the memory can answer from absent ones.

    Raises:
        InvalidInputError: If there are too few of either.
    """
    numbers: dict[str, int] = {}
    sides = []
    for frames, top in (answerable, absent):
        finite = np.isfinite(top)
        kept = [frame for frame, good in zip(frames, finite, strict=True) if good]
        episodes = {name: i for i, name in enumerate(dict.fromkeys(f.episode_id for f in kept))}
        scores = TopScores(
            top[finite], np.array([episodes[f.episode_id] for f in kept], dtype=np.int64)
        )
        texts = [relevance.normalise(frame.instruction) for frame in kept]
        which = [numbers.setdefault(text, len(numbers)) for text in texts]
        sides.append((scores, np.array(which, dtype=np.int64)))
    (known, known_texts), (unknown, unknown_texts) = sides
    return measure_known(
        known, known_texts, unknown, unknown_texts,
        alpha=settings.alpha, similarity=settings.similarity, seed=settings.seed,
    )  # fmt: skip


def top_scores(run: Run) -> NDArray[np.float64]:
    """Return each query's best score, shape ``(m,)``, NaN where nothing was found."""
    return run.scores[:, 0] if run.scores.size else np.full(len(run.query_ids), np.nan)


def summarise(seconds: Sequence[float]) -> StageSummary:
    """Return the times of one stage."""
    if not seconds:
        return StageSummary(0, float("nan"), float("nan"), float("nan"), 0.0)
    times = np.array(seconds) * 1e3
    counts, edges = np.histogram(times, bins=_BINS, range=(0.0, float(np.quantile(times, 0.99))))
    p50, p90, p99 = (float(np.quantile(times, q)) for q in (0.5, 0.9, 0.99))
    return StageSummary(
        len(times), p50, p90, p99, float(times.sum() / 1e3),
        tuple(map(float, edges)), tuple(map(int, counts)),
    )  # fmt: skip


def digest(deciding: dict[str, Any], gallery: Sequence[Frame], ranked: dict[str, Ranked]) -> str:
    """Return a hash of all that decides the numbers, and of the rankings.

    Bags count by their order, not by their names: the same data in another storage has another
    folder.
    """
    found = hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode())
    bags = {name: n for n, name in enumerate(dict.fromkeys(f.bag for f in gallery))}

    def add(frames: Sequence[Frame]) -> None:
        for f in frames:
            key = [bags.setdefault(f.bag, len(bags)), f.topic, f.stamp_ns, f.index, f.instruction]
            found.update(json.dumps(key).encode())

    add(gallery)
    for name, one in ranked.items():
        found.update(name.encode())
        add(one.frames)
        for array in (one.run.entry_ids, one.run.scores, one.qrels.offsets):
            found.update(np.ascontiguousarray(array).tobytes())
        for array in (one.qrels.entry_ids, one.qrels.grades):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def try_known(
    answerable: tuple[Sequence[Frame], NDArray[np.float64]],
    absent: tuple[Sequence[Frame], NDArray[np.float64]],
    settings: ExperimentSettings,
) -> KnownResult | str:
    """Return the result, or why there is none."""
    try:
        return score_known(answerable, absent, settings)
    except InvalidInputError as error:
        return str(error)


def _of_different_instructions(rows: NDArray[np.int64], frames: Sequence[Frame]) -> list[int]:
    """Return some rows, each instruction once first: frames of one episode show one thing."""
    seen: set[str] = set()
    first: list[int] = []
    rest: list[int] = []
    for row in rows.tolist():
        text = frames[row].instruction
        (rest if text in seen else first).append(row)
        seen.add(text)
        if len(first) >= _EXAMPLES:
            break
    return [*first, *rest][:_EXAMPLES]


def _example(
    ranked: Ranked,
    row: int,
    grades: NDArray[np.int64],
    reciprocal: float,
    gallery: Sequence[Frame],
    picture: Picture,
) -> Example:
    run, frame = ranked.run, ranked.frames[row]
    matches = [
        Shown(
            int(run.entry_ids[row, i]), gallery[run.entry_ids[row, i]].instruction,
            float(run.scores[row, i]), int(grades[row, i]),
            _encoded(picture(gallery[run.entry_ids[row, i]])),
        )
        for i in range(min(_MATCHES_SHOWN, run.depth))
        if run.entry_ids[row, i] >= 0
    ]  # fmt: skip
    return Example(
        frame.query_id, frame.instruction, frame.stamp_ns, reciprocal, tuple(matches),
        _encoded(picture(frame)),
    )  # fmt: skip


def _encoded(jpeg: bytes) -> str:
    return base64.b64encode(jpeg).decode()
