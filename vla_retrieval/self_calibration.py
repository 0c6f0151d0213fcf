"""Calibrates a memory with its own entries: each is asked for as if its episode had not happened.

An entry's stored scene and instruction are the query. It never sees its own episode, whose frames
are all but itself:

- *answerable*: another episode has an entry of the same instruction. The score is the best of all
  entries of other episodes.
- *absent*: the same query, where the entries of its instruction are taken away as well.

The instruction is the same when its text is, however it is written (``evaluation.relevance``), or
when the caller says that texts mean the same. Where nobody says so, what is "absent" may still be
there in other words or in another language: the report then calls more absent queries known, and
confidences are lower, than with queries about something new (``tools/tabletop/known.py`` shows
both). Where all answerable queries of a direction repeat an instruction word for word, as from
instructions to instructions, scores only tell verbatim repeats from all else: that direction is
left out, rather than to call each paraphrase unknown. Entries without an ``episode_id`` count as
one episode.

It is exact: every query is compared with every entry in float64, whatever index the memory has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.calibration import (
    DEFAULT_ALPHA,
    DIRECTIONS,
    Calibration,
    DirectionCalibration,
    TopScores,
    fewest_episodes,
    fit,
)
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.known import measure_known
from vla_retrieval.evaluation.relevance import normalise
from vla_retrieval.evaluation.results import KnownResult
from vla_retrieval.memory import Memory
from vla_retrieval.memory.contents import Progress, silent
from vla_retrieval.types import Modality, Similarity, Target

DEFAULT_QUERIES = 1000
_AT_ONCE = 1024  # entries: four matrices of 8 MB each with 1000 queries

_Matrix = NDArray[np.float64]
_Halves = tuple[Modality, Modality]  # of the query, and of the entries


@dataclass(frozen=True)
class SelfCalibration:
    """What came of calibrating a memory.

    Attributes:
        calibration: To be stored with the memory.
        known: Direction name to what it gets wrong, on instructions held out.
        left_out: Direction name to why it is not calibrated.
        episodes: In the memory.
        instructions: Different ones in the memory.
    """

    calibration: Calibration
    known: Mapping[str, KnownResult]
    left_out: Mapping[str, str]
    episodes: int
    instructions: int


@dataclass(frozen=True)
class LeaveOneOut:
    """Top scores of queries against other episodes than their own.

    Attributes:
        entry_ids: Of the entries that were the queries, shape ``(n,)``, ascending.
        episodes: Number of each one's episode, shape ``(n,)``.
        instructions: Number of each one's instruction, shape ``(n,)``.
        has_answer: Whether another episode has its instruction, shape ``(n,)``.
        best: Direction name to the best score of other episodes, shape ``(n,)``; minus infinity
            where there are none.
        best_other: Direction name to the best score of other episodes' entries of other
            instructions, shape ``(n,)``; minus infinity where there are none.
    """

    entry_ids: NDArray[np.int64]
    episodes: NDArray[np.int64]
    instructions: NDArray[np.int64]
    has_answer: NDArray[np.bool_]
    best: Mapping[str, NDArray[np.float64]]
    best_other: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class _Labels:
    """Id of every entry of a memory, ascending, and numbers of its episode and instruction."""

    entry_ids: NDArray[np.int64]
    episodes: NDArray[np.int64]
    instructions: NDArray[np.int64]


def calibrate(
    memory: Memory,
    *,
    alpha: float = DEFAULT_ALPHA,
    scene_weight: float = 0.5,
    queries: int = DEFAULT_QUERIES,
    seed: int = 0,
    same: Sequence[Sequence[str]] = (),
    progress: Progress = silent,
) -> SelfCalibration:
    """Find out what scores of a memory mean, for the similarity and the head it was opened with.

    Nothing is stored; ``memory.set_calibration(result.calibration.to_json())`` does.

    Args:
        memory: Whose entries are asked. Nobody may remove entries or change its head meanwhile.
        alpha: Share of answerable queries that may be called unknown, in [0.001, 0.5].
        scene_weight: In [0, 1], of the queries that are to be judged.
        queries: Most entries to ask with; episodes take turns, so that as many as possible are
            asked.
        seed: Chooses the queries, and the instructions that are held out together.
        same: Groups of instructions that mean the same, paraphrases or translations; those that
            the memory does not hold are of no effect.
        progress: Told how far it is.

    Raises:
        InvalidInputError: If an argument is out of its range, an instruction is in two groups,
            or the memory has too few episodes that repeat an instruction of another one.
        EntryNotFoundError: If an entry was removed meanwhile.
        StorageError: If the memory cannot be read.
    """
    needed = fewest_episodes(alpha)
    if not 0.0 <= scene_weight <= 1.0:
        raise InvalidInputError("scene_weight", "a number in [0, 1]", str(scene_weight))
    labels = _labels(memory, _first_of(same), progress)
    asked = _chosen(labels, queries, seed)
    _check_enough(labels, needed, alpha, asked)
    scores = leave_one_out(memory, asked, labels, scene_weight, progress)
    directions: dict[str, DirectionCalibration] = {}
    known: dict[str, KnownResult] = {}
    left_out: dict[str, str] = {}
    for name in DIRECTIONS:
        found, result = _fitted(scores, name, alpha, memory.similarity, seed)
        if found.asks_for_the_same:
            left_out[name] = "all answerable queries repeat something word for word"
        else:
            directions[name], known[name] = found, result
    calibration = Calibration(
        memory.similarity, scene_weight, memory.compared, alpha, len(labels.entry_ids),
        len(asked), seed, datetime.now(timezone.utc).isoformat(timespec="seconds"), directions,
    )  # fmt: skip
    return SelfCalibration(
        calibration, known, left_out, len(np.unique(labels.episodes)),
        len(np.unique(labels.instructions)),
    )  # fmt: skip


def leave_one_out(
    memory: Memory,
    asked: NDArray[np.int64],
    labels: _Labels,
    scene_weight: float,
    progress: Progress = silent,
) -> LeaveOneOut:
    """Compare queries with every entry of a memory.

    Args:
        memory: Whose entries they are.
        asked: Positions in ``labels`` of the entries that are the queries, ascending.
        labels: Of all entries.
        scene_weight: As in a query.
        progress: Told how far it is.
    """
    query_ids = labels.entry_ids[asked].tolist()
    episodes, instructions = labels.episodes[asked], labels.instructions[asked]
    vectors = {m: _vectors(memory, query_ids, m) for m in Modality}
    lowest = np.full(len(asked), -np.inf)
    best = {name: lowest.copy() for name in DIRECTIONS}
    best_other = {name: lowest.copy() for name in DIRECTIONS}
    has_answer = np.zeros(len(asked), bool)
    for start in range(0, len(labels.entry_ids), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        ids = labels.entry_ids[some].tolist()
        entries = {m: _vectors(memory, ids, m) for m in Modality}
        parts: dict[_Halves, _Matrix] = {
            (q, e): _similarities(memory.similarity, vectors[q], entries[e])
            for q in Modality
            for e in Modality
        }
        own = episodes[:, None] == labels.episodes[None, some]
        same = instructions[:, None] == labels.instructions[None, some]
        has_answer |= (same & ~own).any(axis=1)
        for name in DIRECTIONS:
            scores = np.where(own, -np.inf, weighted(name, scene_weight, parts))
            np.maximum(best[name], scores.max(axis=1), out=best[name])
            others = np.where(same, -np.inf, scores).max(axis=1)
            np.maximum(best_other[name], others, out=best_other[name])
        progress("compared", start + len(ids), len(labels.entry_ids))
    return LeaveOneOut(
        labels.entry_ids[asked], episodes, instructions, has_answer, best, best_other
    )


def weighted(direction: str, scene_weight: float, parts: Mapping[_Halves, _Matrix]) -> _Matrix:
    """Return the scores of a direction, as ``retriever.make_probes`` weighs them.

    Args:
        direction: Of ``DIRECTIONS``.
        scene_weight: In [0, 1].
        parts: Similarities by half of the query and half of the entries, each of one shape.
    """
    sources, target = DIRECTIONS[direction]
    if target is Target.PAIR:
        halves = (sources[0], Modality.SCENE), (sources[-1], Modality.INSTRUCTION)
    else:
        half = Modality.SCENE if target is Target.SCENES else Modality.INSTRUCTION
        if len(sources) == 1:
            return parts[sources[0], half]
        halves = (sources[0], half), (sources[1], half)
    return scene_weight * parts[halves[0]] + (1.0 - scene_weight) * parts[halves[1]]


def _fitted(
    scores: LeaveOneOut, direction: str, alpha: float, similarity: Similarity, seed: int
) -> tuple[DirectionCalibration, KnownResult]:
    yes = scores.has_answer
    no = np.isfinite(scores.best_other[direction])
    answerable = TopScores(scores.best[direction][yes], scores.episodes[yes])
    absent = TopScores(scores.best_other[direction][no], scores.episodes[no])
    result = measure_known(
        answerable, scores.instructions[yes], absent, scores.instructions[no],
        alpha=alpha, similarity=similarity, seed=seed,
    )  # fmt: skip
    return fit(answerable, absent, alpha=alpha, similarity=similarity), result


def _first_of(groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return each normalised text of the groups with the first one of its group.

    Raises:
        InvalidInputError: If one is in two groups.
    """
    first: dict[str, str] = {}
    for group in groups:
        texts = [normalise(text) for text in group]
        for text in texts:
            if first.setdefault(text, texts[0]) != texts[0]:
                raise InvalidInputError(
                    "same", "each instruction in one group", f"{text!r} in two",
                    "Join the two groups.",
                )  # fmt: skip
    return first


def _labels(memory: Memory, same: Mapping[str, str], progress: Progress) -> _Labels:
    """Return the labels of every entry; instructions go by what ``same`` puts in their place."""
    ids = memory.entry_ids()
    episodes: dict[str, int] = {}
    instructions: dict[str, int] = {}
    numbers = np.empty((len(ids), 2), np.int64)
    for start in range(0, len(ids), _AT_ONCE):
        for i, entry in enumerate(memory.get_many(ids[start : start + _AT_ONCE]), start):
            text = normalise(entry.instruction)
            text = same.get(text, text)
            numbers[i] = (
                episodes.setdefault(entry.episode_id, len(episodes)),
                instructions.setdefault(text, len(instructions)),
            )
        progress("read", min(start + _AT_ONCE, len(ids)), len(ids))
    return _Labels(np.array(ids, np.int64), numbers[:, 0], numbers[:, 1])


def _chosen(labels: _Labels, queries: int, seed: int) -> NDArray[np.int64]:
    """Return the positions of the entries to ask with, ascending; episodes take turns."""
    if queries < 1:
        raise InvalidInputError("queries", "a whole number from 1 on", str(queries))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels.entry_ids))
    turn = np.zeros(len(order), np.int64)
    taken: dict[int, int] = {}
    for i in order:
        episode = int(labels.episodes[i])
        turn[i] = taken[episode] = taken.get(episode, -1) + 1
    in_turn = order[np.argsort(turn[order], kind="stable")]
    return np.sort(in_turn[:queries])


def _check_enough(labels: _Labels, needed: int, alpha: float, asked: NDArray[np.int64]) -> None:
    """Refuse a memory that cannot show what its scores mean, before anything is compared.

    Raises:
        InvalidInputError: If it has one instruction, or too few episodes that repeat another's.
    """
    pairs = np.unique(np.column_stack([labels.instructions, labels.episodes]), axis=0)
    instructions, episodes_of = np.unique(pairs[:, 0], return_counts=True)
    if len(instructions) < 2:
        raise InvalidInputError(
            "memory", "entries of two different instructions and more",
            f"{len(labels.entry_ids)} entries of {len(instructions)}",
            "One instruction alone does not show what the score of another one is.",
        )  # fmt: skip
    repeated = np.isin(labels.instructions[asked], instructions[episodes_of > 1])
    count = len(np.unique(labels.episodes[asked][repeated]))
    if count < needed:
        raise InvalidInputError(
            "memory",
            f"entries from at least {needed} episodes whose instruction another episode has too,"
            f" for alpha {alpha:g}",
            f"{count} such among {len(asked)} queries from {len(np.unique(labels.episodes))}"
            f" episodes with {len(instructions)} instructions",
            "Remember more episodes of instructions that were given before, each with its own"
            " episode_id, say which instructions mean the same (memory calibrate --same), ask with"
            " more queries, or take a larger alpha.",
        )  # fmt: skip


def _vectors(memory: Memory, entry_ids: Sequence[int], modality: Modality) -> _Matrix:
    """Return one half of entries as it is compared, float64, shape ``(n, dim)``."""
    return memory.vectors_of(entry_ids, modality).astype(np.float64)


def _similarities(similarity: Similarity, queries: _Matrix, entries: _Matrix) -> _Matrix:
    """Return the similarity of each query with each entry, shape ``(queries, entries)``.

    Within 1e-7 of the scores of ``Memory.search``, which sums in another order.
    """
    dots = queries @ entries.T
    if similarity is not Similarity.NEGATIVE_L2:
        return dots
    squares = np.square(queries).sum(axis=1)[:, None] + np.square(entries).sum(axis=1)
    found: _Matrix = -np.sqrt(np.maximum(squares - 2.0 * dots, 0.0))
    return found
