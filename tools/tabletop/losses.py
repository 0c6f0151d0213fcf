"""What training minimises."""

from typing import Final

import torch
from torch import nn
from torch.nn import functional

from tools.tabletop.vocabulary import COLOURS, KINDS

_CELLS: Final = 9


def contrastive_losses(
    cosines: torch.Tensor, truth: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Three views of the same truth.

    ``pairs`` is the sigmoid loss of SigLIP (Zhai et al. 2023, arXiv:2303.15343) on every pair,
    which sets matching and other pairs apart on one scale; ``scenes`` and ``texts`` are the softmax
    losses of CLIP with all true partners sharing the target evenly, which order the partners of
    each query.

    Args:
        cosines: float32 ``(t, n)``, an instruction per row and a scene per column.
        truth: Whether they fit, bool ``(t, n)``.
        scale: Positive scalar that multiplies the cosines.
        bias: Scalar added for ``pairs``.
    """
    logits = cosines * scale
    signs = truth.float() * 2 - 1
    pairs = -functional.logsigmoid(signs * (logits + bias)).mean()
    return {
        "pairs": 35.0 * pairs,
        "scenes": shared_softmax(logits, truth),
        "texts": 0.5 * shared_softmax(logits.T, truth.T),
    }


def shared_softmax(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row against its true columns, evenly; rows without one are left out."""
    rows = truth.any(dim=1)
    target = truth[rows].float()
    target = target / target.sum(dim=1, keepdim=True)
    return -(target * functional.log_softmax(logits[rows], dim=1)).sum(dim=1).mean()


def imitation_losses(
    students: torch.Tensor, teachers: torch.Tensor, scale: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Pull each student to its own teacher, and away from the other teachers.

    Args:
        students: Unit vectors ``(b, d)``, of pictures or of texts.
        teachers: Unit vectors ``(n, d)`` of facts or meanings; the first ``b`` are the
            students' own.
        scale: Positive scalar that multiplies the cosines.
    """
    own = torch.arange(len(students))
    return {
        "imitate": 4.0 * (1.0 - (students * teachers[: len(students)]).sum(dim=1)).mean(),
        "which": 0.25 * functional.cross_entropy(scale * students @ teachers.T, own),
    }


class CellHeads(nn.Module):
    """Says from features what stands in each cell of the table; it helps training only.

    Args:
        width: Number of input features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kinds = nn.Linear(width, _CELLS * (len(KINDS) + 1))
        self.colours = nn.Linear(width, _CELLS * (len(COLOURS) + 1))

    def loss(
        self, features: torch.Tensor, kinds: torch.Tensor, colours: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of kinds and colours.

        Args:
            features: float32 ``(b, width)``.
            kinds: What stands in each of the nine cells, int64 ``(b, 9)``; 0 for nothing.
            colours: Its colour, likewise.
        """
        return functional.cross_entropy(
            self.kinds(features).view(-1, len(KINDS) + 1), kinds.view(-1)
        ) + functional.cross_entropy(
            self.colours(features).view(-1, len(COLOURS) + 1), colours.view(-1)
        )
