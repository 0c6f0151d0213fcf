"""Which pairs of a batch attract each other, which repel, and which do neither.

Two things attract each other when they have one label or are of one episode, and repel when neither
is so. Indices are in the form of pytorch-metric-learning, which takes them in place of labels.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

IndexPairs: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Anchors and what attracts them, anchors and what repels them: int64, shape ``(m,)`` each."""


def attraction(labels: Tensor, episodes: Tensor) -> Tensor:
    """Return whether two things attract each other.

    Args:
        labels: Int64, shape ``(n,)``.
        episodes: Int64, shape ``(n,)``.

    Returns:
        Bool, shape ``(n, n)``, true on the diagonal.
    """
    same_label = labels[:, None] == labels[None, :]
    return same_label | (episodes[:, None] == episodes[None, :])


def index_pairs(attracted: Tensor, *, itself: bool) -> IndexPairs:
    """Return the index pairs of a batch.

    Args:
        attracted: Bool, shape ``(anchors, others)``; all that is false repels.
        itself: Whether an anchor and the other of its number are a pair too: they are where the
            anchors are of another modality, and are not where they are the same vectors.
    """
    positive = attracted
    if not itself:
        positive = attracted & ~torch.eye(len(attracted), dtype=torch.bool, device=attracted.device)
    a1, p = torch.where(positive)
    a2, n = torch.where(~attracted)
    return a1, p, a2, n
