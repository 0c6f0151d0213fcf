"""From answers in every direction to an evaluation: the same for bags and for a running node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import DirectionResult, Evaluation, KnownResult
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.judging import Judge
from vla_retrieval.experiments.planning import Plan
from vla_retrieval.experiments.ranked import Ranked, Rankings
from vla_retrieval.experiments.scoring import Pictures
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.types import Fingerprint

Answer = Callable[[Sequence[Frame], str], tuple[Sequence[Frame], Rankings]]
"""From frames and a direction to the queries that they make there and their rankings."""


@dataclass(frozen=True)
class Outcome:
    """What an evaluation leaves.

    Attributes:
        evaluation: The numbers.
        ranked: The rankings behind them, by direction; those of bags are read from the work folder.
    """

    evaluation: Evaluation
    ranked: Mapping[str, Ranked]


def assemble(
    plan: Plan,
    gallery: Sequence[Frame],
    answer: Answer,
    pictures: Pictures,
    fingerprint: Fingerprint,
    notes: Sequence[str],
    refused: int,
) -> Outcome:
    """Score every direction, without times.

    Args:
        plan: Which frames ask.
        gallery: What is searched, in the order of its positions.
        answer: Asks.
        pictures: Gives frames' small pictures, for those to look at.
        fingerprint: Of the encoder, with its head.
        notes: Sentences beside those of the plan.
        refused: Images that turned out not to be pictures.

    Raises:
        InvalidInputError: If the file with labels or qrels cannot be read.
    """
    settings, split = plan.settings, plan.split
    ranked: dict[str, Ranked] = {}
    absent: dict[str, Ranked] = {}
    results: dict[str, DirectionResult] = {}
    known: dict[str, KnownResult] = {}
    said = [*plan.notes, *notes]
    judge = Judge(gallery, settings)
    for direction in DIRECTIONS:
        one = ranked[direction] = Ranked(*answer(split.queries, direction), judge)
        results[direction] = scoring.score(one, gallery, settings, pictures)
        said += [note for note in judge.notes(one.frames) if note not in said]
        if split.absent:
            other = absent[f"{direction}, absent"] = Ranked(*answer(split.absent, direction), judge)
            found = scoring.try_known(one, other, settings)
            if isinstance(found, KnownResult):
                known[direction] = found
            else:
                said.append(f"Known or not, {direction}: {found}")
    deciding = {**settings.deciding(), "fingerprint": asdict(fingerprint)}
    evaluation = Evaluation(
        hash=scoring.digest(deciding, gallery, ranked | absent),
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
