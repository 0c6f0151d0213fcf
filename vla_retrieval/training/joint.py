"""Learns a joint embedding: a symmetric contrastive loss with several positives.

Radford et al., "Learning transferable visual models from natural language supervision", 2021, with
the positives of Khosla et al., "Supervised contrastive learning", 2020 (``L_out``). It begins with
the identity or with a linear discriminant (``starts``), whichever validates better: with a few
hundred episodes that is most of what can be learned, and cannot be learned by heart.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vla_retrieval.heads import JointHead, MetricHead
from vla_retrieval.training.contrast import attraction, index_pairs
from vla_retrieval.training.learner import Batch, to_array, to_tensors
from vla_retrieval.training.libraries import metric_learning
from vla_retrieval.training.settings import TrainingSettings
from vla_retrieval.types import Modality


def as_joint(head: MetricHead) -> JointHead:
    """Return the joint head that computes what a metric head of full rank computes."""
    weight = head.weights["weight"]
    found = {}
    for m in Modality:
        found[f"{m.value}.weight"] = weight - np.eye(len(weight), dtype=np.float32)
        found[f"{m.value}.bias"] = -(weight @ head.weights[f"{m.value}.centre"])
    return JointHead(head.encoder, found)


class JointLearner:
    """A `JointHead` in the making.

    Args:
        start: To begin with.
        settings: Temperature counts.
        device: Of torch.
    """

    def __init__(self, start: JointHead, settings: TrainingSettings, device: str) -> None:
        self._encoder = start.encoder
        self._start = to_tensors(start, device)
        self._changes = {
            name: torch.zeros_like(array, requires_grad=True) for name, array in self._start.items()
        }
        self._loss = metric_learning("losses").SupConLoss(temperature=settings.temperature)

    @property
    def parameters(self) -> list[Tensor]:
        """The changes of the maps and the biases."""
        return list(self._changes.values())

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean over both directions."""
        projected = {m: self._projected(batch.halves[m], m) for m in Modality}
        pairs = index_pairs(attraction(batch.labels, batch.episodes), itself=True)
        losses = [
            self._loss(projected[asks], indices_tuple=pairs, ref_emb=projected[found])
            for asks, found in (tuple(Modality), tuple(Modality)[::-1])
        ]
        return torch.stack(losses).mean()

    def head(self, share: float = 1.0) -> JointHead:
        """Return the head that the weights make now."""
        found = {n: to_array(self._start[n] + share * self._changes[n]) for n in self._start}
        return JointHead(self._encoder, found)

    def _projected(self, rows: Tensor, modality: Modality) -> Tensor:
        name = modality.value
        weight, bias = (
            self._start[f"{name}.{part}"] + self._changes[f"{name}.{part}"]
            for part in ("weight", "bias")
        )
        return normalize(rows + rows @ weight.T + bias, dim=1)
