"""From rankings to numbers, examples and a hash: the same for bags and for a running node."""

from __future__ import annotations

import base64
import hashlib
import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.calibration import TopScores
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation import averaging, metrics, relevance
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.known import measure_known
from vla_retrieval.evaluation.metrics import QueryMetrics
from vla_retrieval.evaluation.results import (
    DirectionResult,
    Example,
    KnownResult,
    Shown,
    StageSummary,
)
from vla_retrieval.experiments.ranked import Ranked, Rankings
from vla_retrieval.experiments.settings import ExperimentSettings

_EXAMPLES = 6
_MATCHES_SHOWN = 5
_BINS = 30
_LEAST_MS = 1e-3
_AT_ONCE = 1024  # queries whose best scores are read

Pictures = Callable[[Sequence[Frame]], list[bytes]]
"""From frames to their small pictures, as JPEG."""


def score(
    ranked: Ranked, gallery: Sequence[Frame], settings: ExperimentSettings, pictures: Pictures
) -> DirectionResult:
    """Return how one direction did, with queries to look at."""
    measured, top, first = _measure(ranked, settings.ks)
    result = averaging.average(
        measured, [frame.instruction for frame in ranked.frames], seed=settings.seed
    )
    answerable = np.flatnonzero(measured.answerable)
    if not len(answerable):
        return result
    reciprocal = measured.values["mrr"]
    by_rank = answerable[np.lexsort((-top[answerable], -reciprocal[answerable]))]
    wrong = answerable[(first[answerable] == 0) & np.isfinite(top[answerable])]
    confident = wrong[np.argsort(-top[wrong], kind="stable")]

    def shown(rows: NDArray[np.int64]) -> tuple[Example, ...]:
        some = _of_different_instructions(rows, ranked.frames)
        return _examples(ranked, some, reciprocal[some].tolist(), gallery, pictures)

    return replace(
        result, best=shown(by_rank), worst=shown(by_rank[::-1]), confidently_wrong=shown(confident)
    )


def _measure(
    ranked: Ranked, ks: Sequence[int]
) -> tuple[QueryMetrics, NDArray[np.float64], NDArray[np.int64]]:
    """Return each query's metrics, its best score, and the grade of its first match."""
    parts: list[QueryMetrics] = []
    top, first = [np.zeros(0)], [np.zeros(0, np.int64)]
    for run, qrels in ranked.parts():
        parts.append(metrics.evaluate(qrels, run, ks))
        top.append(run.scores[:, 0].copy())
        first.append(metrics.retrieved_grades(qrels, run)[:, 0].copy())
    return metrics.joined(parts, ks), np.concatenate(top), np.concatenate(first)


def score_known(answerable: Ranked, absent: Ranked, settings: ExperimentSettings) -> KnownResult:
    """Return how well top scores tell queries that the memory can answer from absent ones.

    Args:
        answerable: Those of them that have nothing relevant in the memory are left out.
        absent: Ask for what the memory does not hold.
        settings: How many may count as unknown, and of which similarity the scores are.

    Raises:
        InvalidInputError: If there are too few of either.
    """
    numbers: dict[str, int] = {}
    sides = []
    for asked in (answerable, absent):
        top = _top_scores(asked.rankings)
        if asked is answerable:
            top[~_has_relevant(asked)] = np.nan
        episodes: dict[str, int] = {}
        of, which = array("q"), array("q")
        for frame, good in zip(asked.frames, np.isfinite(top).tolist(), strict=True):
            if good:
                text = relevance.normalise(frame.instruction)
                which.append(numbers.setdefault(text, len(numbers)))
                of.append(episodes.setdefault(frame.episode_id, len(episodes)))
        scores = TopScores(top[np.isfinite(top)], np.array(of, np.int64))
        sides.append((scores, np.array(which, np.int64)))
    (known, known_texts), (unknown, unknown_texts) = sides
    return measure_known(
        known, known_texts, unknown, unknown_texts,
        alpha=settings.alpha, similarity=settings.similarity, seed=settings.seed,
    )  # fmt: skip


def _top_scores(rankings: Rankings) -> NDArray[np.float64]:
    """Return each query's best score, shape ``(m,)``, NaN where nothing was found."""
    parts = [
        rankings.read(start, min(start + _AT_ONCE, len(rankings)))[1][:, 0].copy()
        for start in range(0, len(rankings), _AT_ONCE)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _has_relevant(ranked: Ranked) -> NDArray[np.bool_]:
    """Return whether the memory holds anything relevant to each query, shape ``(m,)``."""
    return np.concatenate([np.zeros(0, bool), *(of.relevant > 0 for _, of in ranked.parts())])


def summarise(seconds: Sequence[float]) -> StageSummary:
    """Return the times of one stage."""
    if not seconds:
        return StageSummary(0, float("nan"), float("nan"), float("nan"), 0.0)
    times = np.array(seconds) * 1e3
    # A stage that takes no time at all has a histogram that begins at 0, too.
    end = max(float(np.quantile(times, 0.99)), _LEAST_MS)
    counts, edges = np.histogram(times, bins=_BINS, range=(0.0, end))
    p50, p90, p99 = (float(np.quantile(times, q)) for q in (0.5, 0.9, 0.99))
    return StageSummary(
        len(times), p50, p90, p99, float(times.sum() / 1e3),
        tuple(map(float, edges)), tuple(map(int, counts)),
    )  # fmt: skip


def digest(deciding: dict[str, Any], gallery: Sequence[Frame], ranked: Mapping[str, Ranked]) -> str:
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
        one.update(found)
    return found.hexdigest()


def try_known(
    answerable: Ranked, absent: Ranked, settings: ExperimentSettings
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


def _examples(
    ranked: Ranked,
    rows: Sequence[int],
    reciprocal: Sequence[float],
    gallery: Sequence[Frame],
    pictures: Pictures,
) -> tuple[Example, ...]:
    if not rows:
        return ()
    asking = [ranked.frames[row] for row in rows]
    answers = _first_matches(ranked, rows)
    entries = sorted({entry for answer in answers for entry, _, _ in answer})
    seen = [gallery[entry] for entry in entries]
    encoded = [base64.b64encode(jpeg).decode() for jpeg in pictures([*asking, *seen])]
    shown = dict(zip(entries, zip(seen, encoded[len(asking) :], strict=True), strict=True))

    def match(entry: int, score: float, grade: int) -> Shown:
        frame, thumbnail = shown[entry]
        return Shown(entry, frame.instruction, score, grade, thumbnail)

    own = encoded[: len(asking)]
    return tuple(
        Example(
            frame.query_id, frame.instruction, frame.stamp_ns, rank,
            tuple(match(*found) for found in answer), thumbnail,
        )
        for frame, rank, answer, thumbnail in zip(asking, reciprocal, answers, own, strict=True)
    )  # fmt: skip


def _first_matches(ranked: Ranked, rows: Sequence[int]) -> list[list[tuple[int, float, int]]]:
    """Return gallery position, score and grade of each query's first matches."""
    run, qrels = ranked.rows(rows)
    columns = run.entry_ids, run.scores, metrics.retrieved_grades(qrels, run)
    answers = zip(*(column[:, :_MATCHES_SHOWN].tolist() for column in columns), strict=True)
    return [[match for match in zip(*answer, strict=True) if match[0] >= 0] for answer in answers]
