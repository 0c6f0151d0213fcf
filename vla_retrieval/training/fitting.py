"""What each method begins with, and how it goes on."""

from __future__ import annotations

from dataclasses import dataclass

from vla_retrieval.heads import HashHead, JointHead, MetricHead, WeightedHead
from vla_retrieval.training.data import Pairs
from vla_retrieval.training.hashing import HashLearner, itq_start
from vla_retrieval.training.joint import JointLearner, as_joint
from vla_retrieval.training.learner import Learner, batch_of
from vla_retrieval.training.libraries import training_device
from vla_retrieval.training.loop import Curves, Told, fit
from vla_retrieval.training.measuring import Validation
from vla_retrieval.training.metric import MetricLearner, starts
from vla_retrieval.training.settings import TrainingSettings


@dataclass(frozen=True, eq=False)
class Fitted:
    """What came of it.

    Attributes:
        head: That validates best.
        before: Untrained, to compare with.
        start_name: What learning began with.
        curves: What happened.
        untrained: Whether the head is the identity, because nothing was surely better.
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
    if settings.method == "hash":
        before = HashHead.initial(pairs.encoder, settings.bits, settings.seed)
        codes = itq_start(pairs, settings.bits, settings.seed)
        learner, name = HashLearner(codes, batch, device), "iterative quantization"
    elif settings.method == "metric":
        before = MetricHead.identity(pairs.encoder)
        start = max(starts(pairs), key=validation)
        learner, name = MetricLearner(start, device), _name(start)
    else:
        before = JointHead.identity(pairs.encoder)
        start = max(starts(pairs), key=lambda head: validation(as_joint(head)))
        learner, name = JointLearner(as_joint(start), settings, device), _name(start)
    head, curves = fit(learner, batch, settings, validation, told)
    # Random hyperplanes are nobody's choice; the encoder's own embeddings are.
    if settings.method != "hash" and not validation.surely_better(head, before):
        return Fitted(before, before, name, curves, untrained=True)
    return Fitted(head, before, name, curves)


def _name(start: MetricHead) -> str:
    identity = start.digest == MetricHead.identity(start.encoder).digest
    return "the identity" if identity else "whitening within tasks"
