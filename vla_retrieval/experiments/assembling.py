"""From answers in every direction to an evaluation: the same for bags and for a running node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.results import DirectionResult, Evaluation, KnownResult
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.planning import Plan
from vla_retrieval.experiments.scoring import Picture, Ranked
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.types import Fingerprint

Answer = Callable[[Sequence[Frame], str], tuple[tuple[Frame, ...], Run]]
"""From frames and a direction to the queries that they make there and their rankings, of positions
in the gallery."""


@dataclass(frozen=True)
class Outcome:
    """What an evaluation leaves.

    Attributes:
        evaluation: The numbers.
        ranked: The rankings behind them, by direction.
    """

    evaluation: Evaluation
    ranked: Mapping[str, Ranked]


def assemble(
    plan: Plan,
    gallery: Sequence[Frame],
    answer: Answer,
    picture: Picture,
    fingerprint: Fingerprint,
    notes: Sequence[str],
    refused: int,
) -> Outcome:
    """Score every direction, without times.

    Args:
        plan: Which frames ask.
        gallery: What is searched, in the order of its positions.
        answer: Asks.
        picture: A frame's small picture, as JPEG, for those to look at.
        fingerprint: Of the encoder, with its head.
        notes: Sentences beside those of the plan.
        refused: Images that turned out not to be pictures.

    Raises:
        InvalidInputError: If the file with labels or qrels cannot be read.
    """
    settings, split = plan.settings, plan.split
    ranked: dict[str, Ranked] = {}
    results: dict[str, DirectionResult] = {}
    known: dict[str, KnownResult] = {}
    said = [*plan.notes, *notes]
    # Judged once for all directions with the same queries.
    judged: dict[tuple[str, ...], tuple[Qrels, tuple[str, ...]]] = {}
    for direction in DIRECTIONS:
        frames, run = answer(split.queries, direction)
        if run.query_ids not in judged:
            judged[run.query_ids] = scoring.judge(frames, gallery, settings)
        qrels, more = judged[run.query_ids]
        ranked[direction] = Ranked(frames, run, qrels)
        results[direction] = scoring.score(ranked[direction], gallery, settings, picture)
        said += [note for note in more if note not in said]
        if split.absent:
            absent, absent_run = answer(split.absent, direction)
            top, absent_top = scoring.top_scores(run), scoring.top_scores(absent_run)
            found = scoring.try_known((frames, top), (absent, absent_top), settings)
            if isinstance(found, KnownResult):
                known[direction] = found
            else:
                said.append(f"Known or not, {direction}: {found}")
    deciding = {**settings.deciding(), "fingerprint": asdict(fingerprint)}
    evaluation = Evaluation(
        hash=scoring.digest(deciding, gallery, ranked),
        settings={**_model(fingerprint), **settings.shown()},
        counts=plan.counts(refused),
        notes=tuple(said),
        directions=results,
        known=known,
    )
    return Outcome(evaluation, ranked)


def _model(fingerprint: Fingerprint) -> dict[str, str]:
    return {
        "model": fingerprint.model,
        "weights": fingerprint.weights,
        "head": fingerprint.head or "none",
    }
