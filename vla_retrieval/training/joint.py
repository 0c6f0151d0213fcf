"""Learns a joint embedding: a symmetric contrastive loss with several positives.

Radford et al., "Learning transferable visual models from natural language supervision", 2021, with
the positives of Khosla et al., "Supervised contrastive learning", 2020 (``L_out``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vla_retrieval.heads import JointHead
from vla_retrieval.training.contrast import attraction, index_pairs
from vla_retrieval.training.learner import Batch, to_array
from vla_retrieval.training.libraries import metric_learning
from vla_retrieval.training.settings import TrainingSettings
from vla_retrieval.types import Fingerprint, Modality


class JointLearner:
    """A `JointHead` in the making.

    Args:
        encoder: Of the embeddings.
        settings: Temperature and device count.
        device: Of torch.
    """

    def __init__(self, encoder: Fingerprint, settings: TrainingSettings, device: str) -> None:
        self._encoder = encoder
        shape = encoder.dim, encoder.dim
        self._weights = {m: torch.zeros(shape, device=device, requires_grad=True) for m in Modality}
        self._biases = {
            m: torch.zeros(encoder.dim, device=device, requires_grad=True) for m in Modality
        }
        self._loss = metric_learning("losses").SupConLoss(temperature=settings.temperature)

    @property
    def parameters(self) -> list[Tensor]:
        """The residual maps and the biases."""
        return [*self._weights.values(), *self._biases.values()]

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean over both directions."""
        projected = {m: self._projected(batch.halves[m], m) for m in Modality}
        pairs = index_pairs(attraction(batch.labels, batch.episodes), itself=True)
        losses = [
            self._loss(projected[asks], indices_tuple=pairs, ref_emb=projected[found])
            for asks, found in (tuple(Modality), tuple(reversed(Modality)))
        ]
        return torch.stack(losses).mean()

    def head(self, share: float = 1.0) -> JointHead:
        """Return the head that the weights make now."""
        weights = {f"{m.value}.weight": to_array(share * self._weights[m]) for m in Modality}
        biases = {f"{m.value}.bias": to_array(share * self._biases[m]) for m in Modality}
        return JointHead(self._encoder, weights | biases)

    def _projected(self, rows: Tensor, modality: Modality) -> Tensor:
        return normalize(rows + rows @ self._weights[modality].T + self._biases[modality], dim=1)
