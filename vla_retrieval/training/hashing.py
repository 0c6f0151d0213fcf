"""Learns binary codes: a relaxation of the bits, what they are to keep, and how they are to be.

The bits begin with iterative quantization (``starts``). Then three things are asked of them:

- *Keep the layout.* The order of a batch by code follows the order by embedding, as distributions
  over the batch (a listwise distillation; Cao et al., "Learning to rank", 2007).
- *Keep the tasks.* What has one label comes together: the contrastive loss of ``joint``.
- *Be good bits.* Each is as often 1 as 0, no two say the same, and the relaxation is near -1 or 1
  (Weiss et al., "Spectral hashing", 2008; Cao et al., "HashNet", 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from vla_retrieval.heads import HashHead
from vla_retrieval.training.contrast import attraction, index_pairs
from vla_retrieval.training.learner import Batch, to_array, to_tensors
from vla_retrieval.training.libraries import metric_learning
from vla_retrieval.types import Modality

_DIRECTIONS = (
    (Modality.SCENE, Modality.SCENE),
    (Modality.INSTRUCTION, Modality.SCENE),
    (Modality.SCENE, Modality.INSTRUCTION),
)
_LAYOUT_TEMPERATURE = 0.05
_CODE_TEMPERATURE = 0.1
_LAYOUT, _TASKS, _QUANTISED, _BALANCED, _DIFFERENT = 2.0, 1.0, 0.05, 0.1, 1.0
"""Weights of the terms."""
_LEAST_SPREAD = 1e-6  # where all rows are one


class HashLearner:
    """A `HashHead` in the making.

    Args:
        start: To begin with.
        everything: All that is learned from; its spread is the unit of the relaxation.
        device: Of torch.
    """

    def __init__(self, start: HashHead, everything: Batch, device: str) -> None:
        self._start = start
        weights = to_tensors(start, device)
        self._planes = {m: weights[f"{m.value}.weight"] for m in Modality}
        self._thresholds = {m: weights[f"{m.value}.threshold"] for m in Modality}
        self._plane_changes = {
            m: torch.zeros_like(self._planes[m], requires_grad=True) for m in Modality
        }
        self._threshold_changes = {
            m: torch.zeros_like(self._thresholds[m], requires_grad=True) for m in Modality
        }
        with torch.no_grad():
            self._spread = {
                m: (everything.halves[m] @ self._planes[m].T - self._thresholds[m])
                .std()
                .clamp_min(_LEAST_SPREAD)
                for m in Modality
            }
        self._loss = metric_learning("losses").SupConLoss(temperature=_CODE_TEMPERATURE)

    @property
    def parameters(self) -> list[Tensor]:
        """The changes of hyperplanes and thresholds."""
        return [*self._plane_changes.values(), *self._threshold_changes.values()]

    def loss(self, batch: Batch) -> Tensor:
        """Return the weighted sum of what the module's docstring names."""
        relaxed = {m: self._relaxed(batch.halves[m], m) for m in Modality}
        attracted = attraction(batch.labels, batch.episodes)
        pairs = {itself: index_pairs(attracted, itself=itself) for itself in (True, False)}
        layout = torch.stack([_layout(batch, relaxed, *of) for of in _DIRECTIONS]).mean()
        tasks = torch.stack(
            [
                self._loss(
                    relaxed[asks], indices_tuple=pairs[asks is not found], ref_emb=relaxed[found]
                )
                for asks, found in _DIRECTIONS
            ]
        ).mean()
        good = torch.stack([_goodness(bits) for bits in relaxed.values()]).mean()
        return _LAYOUT * layout + _TASKS * tasks + good

    def head(self, share: float = 1.0) -> HashHead:
        """Return the head that the weights make now."""
        weights = {}
        for m in Modality:
            planes = self._planes[m] + share * self._plane_changes[m]
            thresholds = self._thresholds[m] + share * self._threshold_changes[m]
            weights[f"{m.value}.weight"] = to_array(planes)
            weights[f"{m.value}.threshold"] = to_array(thresholds)
        return HashHead(self._start.encoder, weights)

    def _relaxed(self, rows: Tensor, modality: Modality) -> Tensor:
        planes = self._planes[modality] + self._plane_changes[modality]
        thresholds = self._thresholds[modality] + self._threshold_changes[modality]
        return torch.tanh((rows @ planes.T - thresholds) / self._spread[modality])


def _layout(
    batch: Batch, relaxed: dict[Modality, Tensor], asks: Modality, found: Modality
) -> Tensor:
    wanted = batch.halves[asks] @ batch.halves[found].T / _LAYOUT_TEMPERATURE
    bits = relaxed[asks].shape[1]
    got = relaxed[asks] @ relaxed[found].T / (bits * _CODE_TEMPERATURE)
    if asks is found:  # that each is nearest to itself says nothing
        itself = torch.eye(len(batch), dtype=torch.bool, device=got.device)
        wanted, got = wanted.masked_fill(itself, -1e4), got.masked_fill(itself, -1e4)
    return kl_div(log_softmax(got, dim=1), softmax(wanted, dim=1), reduction="batchmean")


def _goodness(bits: Tensor) -> Tensor:
    quantised = (bits.abs() - 1).square().mean()
    balanced = bits.mean(dim=0).square().mean()
    shared = bits.T @ bits / len(bits)
    different = (shared - torch.diag(torch.diag(shared))).square().mean()
    return _QUANTISED * quantised + _BALANCED * balanced + _DIFFERENT * different
