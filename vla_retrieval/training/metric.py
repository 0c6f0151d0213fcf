"""Learns a metric: the multi-similarity loss with its miner.

Wang et al., "Multi-similarity loss with general pair weighting for deep metric learning", 2019. It
begins with a linear discriminant (``starts``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vla_retrieval.heads import MetricHead
from vla_retrieval.training.contrast import attraction
from vla_retrieval.training.learner import Batch, to_array, to_tensors
from vla_retrieval.training.libraries import metric_learning
from vla_retrieval.types import Modality


class MetricLearner:
    """A `MetricHead` in the making.

    Args:
        start: To begin with.
        device: Of torch.
    """

    def __init__(self, start: MetricHead, device: str) -> None:
        self._start = start
        weights = to_tensors(start, device)
        self._weight = weights["weight"]
        self._centre = weights["scene.centre"]
        self._change = torch.zeros_like(self._weight, requires_grad=True)
        self._loss = metric_learning("losses").MultiSimilarityLoss(alpha=2, beta=40, base=0.5)
        self._miner = metric_learning("miners").MultiSimilarityMiner(epsilon=0.1)

    @property
    def parameters(self) -> list[Tensor]:
        """The change of the map."""
        return [self._change]

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the scenes, over the pairs that are hard now."""
        rows = batch.halves[Modality.SCENE] - self._centre
        projected = normalize(rows @ (self._weight + self._change).T, dim=1)
        a1, p, a2, n = self._miner(projected, batch.labels)
        # The miner knows labels only: another one within the episode is nothing to repel.
        repelled = ~attraction(batch.labels, batch.episodes)[a2, n]
        pairs = a1, p, a2[repelled], n[repelled]
        return torch.as_tensor(self._loss(projected, indices_tuple=pairs))

    def head(self, share: float = 1.0) -> MetricHead:
        """Return the head that the weights make now."""
        weight = to_array(self._weight + share * self._change)
        return MetricHead(self._start.encoder, {**self._start.weights, "weight": weight})
