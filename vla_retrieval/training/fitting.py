"""What each method begins with, and how it goes on."""

from __future__ import annotations

from dataclasses import dataclass

from vla_retrieval.heads import HashHead, JointHead, MetricHead, WeightedHead
from vla_retrieval.training.data import Pairs
from vla_retrieval.training.hashing import HashLearner
from vla_retrieval.training.joint import JointLearner, as_joint
from vla_retrieval.training.learner import Learner, batch_of
from vla_retrieval.training.libraries import training_device
from vla_retrieval.training.loop import Curves, Told, fit
from vla_retrieval.training.measuring import Validation
from vla_retrieval.training.metric import MetricLearner
from vla_retrieval.training.settings import TrainingSettings
from vla_retrieval.training.starts import hash_start, starts


@dataclass(frozen=True, eq=False)
class Fitted:
    """What came of it.

    Attributes:
        head: That validates best.
        before: Untrained, to compare with.
        start_name: What learning began with.
        curves: What happened.
        untrained: Whether the head is the one before, because nothing was surely better than the
            identity, or because random hyperplanes validated better.
    """

    head: WeightedHead
    before: WeightedHead
    start_name: str
    curves: Curves
    untrained: bool = False


def fit_method(
    pairs: Pairs, settings: TrainingSettings, validation: Validation, told: Told
) -> Fitted:
    """Fit the method of the settings to pairs.

    Args:
        pairs: To learn from.
        settings: How.
        validation: Decides what is best.
        told: After each epoch.
    """
    device = training_device(settings.device)
    learner: Learner
    before: WeightedHead
    batch = batch_of(pairs, device)
    start = max(starts(pairs), key=lambda start: validation(start.head))
    name = start.name
    if settings.method == "hash":
        before = HashHead.initial(pairs.encoder, settings.bits, settings.seed)
        codes, name = hash_start(pairs, start, settings.bits, settings.seed)
        learner = HashLearner(codes, batch, device)
    elif settings.method == "metric":
        before = MetricHead.identity(pairs.encoder)
        learner = MetricLearner(start.head, device)
    else:
        before = JointHead.identity(pairs.encoder)
        learner = JointLearner(as_joint(start.head), settings, device)
    head, curves = fit(learner, batch, settings, validation, told)
    if _is_kept(head, before, validation):
        return Fitted(head, before, name, curves)
    return Fitted(before, before, name, curves, untrained=True)


def _is_kept(head: WeightedHead, before: WeightedHead, validation: Validation) -> bool:
    # The encoder's own embeddings are left only for what is surely better. Random hyperplanes are
    # nobody's choice, and where few episodes validate, they tie with what finds more of others.
    if head.bits:
        return validation(head) >= validation(before)
    return validation.surely_better(head, before)
