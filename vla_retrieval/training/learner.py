"""What the loop trains: weights in torch that become a head at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_retrieval.heads import WeightedHead
from vla_retrieval.training.data import Pairs, codes_of
from vla_retrieval.types import Modality


@dataclass(frozen=True, eq=False)
class Batch:
    """Some pairs on the device.

    Attributes:
        halves: Embeddings of each modality: float32, shape ``(n, dim)``, unit rows.
        labels: Int64, shape ``(n,)``.
        episodes: Int64, shape ``(n,)``.
    """

    halves: Mapping[Modality, Tensor]
    labels: Tensor
    episodes: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> Batch:
        """Return some of them."""
        halves = {modality: half[index] for modality, half in self.halves.items()}
        return Batch(halves, self.labels[index], self.episodes[index])


def batch_of(pairs: Pairs, device: str) -> Batch:
    """Return all pairs as one batch."""
    halves = {
        m: torch.nn.functional.normalize(torch.from_numpy(pairs.half(m)).to(device), dim=1)
        for m in Modality
    }
    labels, episodes = (
        torch.from_numpy(codes_of(words)).to(device) for words in (pairs.labels, pairs.episodes)
    )
    return Batch(halves, labels, episodes)


class Learner(Protocol):
    """A head in the making."""

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser changes: differences from the start, which are zero at first."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar."""
        ...

    def head(self, share: float = 1.0) -> WeightedHead:
        """Return the head that the weights make now.

        Args:
            share: How much of the way from the start is gone, in [0, 1].
        """
        ...


def to_array(values: Tensor) -> NDArray[np.float32]:
    """Return a tensor as float32 of its own."""
    return values.detach().to("cpu", torch.float32).numpy().copy()


def to_tensors(head: WeightedHead, device: str) -> dict[str, Tensor]:
    """Return copies of a head's arrays on a device."""
    return {name: torch.from_numpy(a.copy()).to(device) for name, a in head.weights.items()}
