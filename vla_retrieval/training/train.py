"""From pairs to a head and the record of how it came about."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vla_retrieval.heads import WeightedHead
from vla_retrieval.training.data import Pairs
from vla_retrieval.training.measuring import (
    DIRECTIONS,
    Validation,
    by_codes,
    by_cosine,
    kept,
    measured,
    per_query,
    reranked,
    scores_of,
)
from vla_retrieval.training.settings import TrainingSettings
from vla_retrieval.training.splitting import SIDES, split_episodes

VALIDATED = {
    "joint": ("instruction to scenes", "scene to instructions"),
    "metric": ("scene to scenes",),
    "hash": ("instruction to scenes", "scene to instructions", "scene to scenes"),
}
"""Method to the directions whose mean decides when to stop."""

Told = Callable[[int, int, float], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """What training leaves.

    Attributes:
        head: That validates best.
        record: Settings, data, curves, and metrics of each side before and after; as JSON has it.
    """

    head: WeightedHead
    record: dict[str, Any]


def train(
    pairs: Pairs,
    settings: TrainingSettings,
    told: Told = lambda epoch, epochs, validation: None,
    labelled_by: str = "",
) -> Trained:
    """Train a head.

    The same pairs and settings give the same head on one machine's CPU.

    Args:
        pairs: To be divided by episode into training, validation and test.
        settings: What is wanted.
        told: After each epoch, the start being epoch 0, with the validation metric.
        labelled_by: What gave the labels, for the record.

    Raises:
        InvalidInputError: If the pairs are too few (``splitting``), or the device is not there.
        MissingLibraryError: If pytorch-metric-learning is not installed.
    """
    from vla_retrieval.training.fitting import fit_method

    rows = split_episodes(pairs, settings.seed)
    sides = {side: pairs.rows(getattr(rows, side)) for side in SIDES}
    directions = VALIDATED[settings.method]
    validation = Validation(sides["validation"], directions, settings.seed)
    started = time.perf_counter()
    fitted = fit_method(sides["train"], settings, validation, told)
    record: dict[str, Any] = {
        "settings": settings.shown(),
        "data": {
            "fingerprint": pairs.fingerprint(),
            "labelled_by": labelled_by,
            "without_label": pairs.left_out,
            "sides": rows.counts(pairs),
        },
        "validated": {"metric": _validated(fitted.head), "directions": list(directions)},
        "curves": asdict(fitted.curves),
        "start": fitted.start_name,
        "untrained": fitted.untrained,
        "seconds": round(time.perf_counter() - started, 3),
        "metrics": {},
    }
    for side, of in sides.items():
        record["metrics"][side] = {
            when: _plain(measured(of, scores_of(head), settings.seed))
            for when, head in (("before", fitted.before), ("after", fitted.head))
        }
    if fitted.head.bits:
        record["proposing"] = {
            side: _proposing(of, fitted.head, settings.seed) for side, of in sides.items()
        }
    return Trained(fitted.head, record)


def _validated(head: WeightedHead) -> str:
    if head.bits:
        return "mean of ndcg@10 by codes and of the share of the encoder's ten best that they keep"
    return "mean ndcg@10"


def _proposing(pairs: Pairs, head: WeightedHead, seed: int) -> dict[str, dict[str, float]]:
    """Return what is kept where codes propose and the encoder's embeddings rank, by direction.

    That is ``recall``, the ratio of the mean Recall@10 to that of the encoder alone, and ``best``,
    the mean share of the encoder's ten best.
    """
    codes, found = by_codes(head), {}
    for direction in DIRECTIONS:
        after, alone = (
            float(per_query(pairs, direction, scores, seed)["recall@10"].mean())
            for scores in (reranked(codes), by_cosine)
        )
        best = float(kept(pairs, direction, codes, seed).mean())
        found[direction] = {"recall": after / alone if alone else 1.0, "best": best}
    return found


def _plain(measures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {d: {name: asdict(of) for name, of in row.items()} for d, row in measures.items()}
