"""The loop: batches, steps, and the best head that validation has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from vla_retrieval.heads import WeightedHead
from vla_retrieval.training.learner import Batch, Learner
from vla_retrieval.training.settings import TrainingSettings

SHARES = (0.25, 0.5, 0.75)
"""Shares of the way from the start that are tried beside the whole."""


@dataclass
class Curves:
    """What happened, epoch by epoch; the first entry of ``validation`` is the start.

    Attributes:
        loss: Mean over the epoch's batches.
        validation: After each epoch, with the whole way gone.
        best_epoch: Whose head it is; 0 is the start.
        share: How much of the way from the start the head goes, in [0, 1].
        stopped_early: Whether patience ended it.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0
    share: float = 0.0
    stopped_early: bool = False


Told = Callable[[int, int, float], None]
"""Told the epoch, how many there may be, and the validation metric."""


def fit(
    learner: Learner,
    batch: Batch,
    settings: TrainingSettings,
    validate: Callable[[WeightedHead], float],
    told: Told,
) -> tuple[WeightedHead, Curves]:
    """Train, and return the head that validates best; the start is one of the candidates.

    Args:
        learner: To be trained.
        batch: All that is learned from.
        settings: How.
        validate: Higher is better.
        told: After each epoch.
    """
    curves = Curves()
    start = learner.head()
    curves.validation.append(validate(start))
    told(0, settings.epochs, curves.validation[0])
    optimiser = torch.optim.AdamW(
        learner.parameters, lr=settings.rate, weight_decay=settings.weight_decay
    )
    chance = torch.Generator().manual_seed(settings.seed)
    best_score, best = curves.validation[0], [p.detach().clone() for p in learner.parameters]
    for epoch in range(1, settings.epochs + 1):
        curves.loss.append(_epoch(learner, batch, settings.batch, optimiser, chance))
        score = validate(learner.head())
        curves.validation.append(score)
        told(epoch, settings.epochs, score)
        if score > best_score:
            best_score, curves.best_epoch = score, epoch
            best = [p.detach().clone() for p in learner.parameters]
        if epoch - curves.best_epoch >= settings.patience:
            curves.stopped_early = epoch < settings.epochs
            break
    if curves.best_epoch == 0:
        return start, curves
    with torch.no_grad():
        for parameter, kept in zip(learner.parameters, best, strict=True):
            parameter.copy_(kept)
    scores = {1.0: best_score} | {share: validate(learner.head(share)) for share in SHARES}
    curves.share = max(scores, key=scores.__getitem__)
    return learner.head(curves.share), curves


def _epoch(
    learner: Learner,
    everything: Batch,
    size: int,
    optimiser: torch.optim.Optimizer,
    chance: torch.Generator,
) -> float:
    """Take one step for each batch of a new order, and return the mean loss."""
    count = len(everything)
    order = torch.randperm(count, generator=chance).to(everything.labels.device)
    # Batches of nearly one size: a small rest would have few to be told apart from.
    parts = torch.tensor_split(order, max(1, round(count / size)))
    total = 0.0
    for part in parts:
        optimiser.zero_grad(set_to_none=True)
        loss = learner.loss(everything.rows(part))
        # A batch in which nothing repels has a loss that is a plain zero.
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        total += float(loss.detach())
    return total / len(parts)
