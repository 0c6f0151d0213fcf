"""Stand-ins for both towers that read the truth: they teach, and do not ship.

Rendered pictures are dear and facts are cheap. The fact tower embeds what stands where, the meaning
tower embeds what an instruction asks for, and the two learn to fit each other in seconds from
scenes that need no rendering and instructions that need no words. The image tower and the text
tower then each imitate their stand-in, an aim far denser than a contrastive loss. Like all of
training, the stand-ins see scenes and instructions of the training split only.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import nn

from tools.tabletop.dataset import SceneTable
from tools.tabletop.language import Instruction, ObjectPhrase
from tools.tabletop.scene import CELL
from tools.tabletop.vocabulary import COLOURS, KINDS, PLACES, RELATIONS

_HIDDEN: Final = 256
_GOAL: Final = len(RELATIONS)
_NO_RELATION: Final = len(RELATIONS) + 1


class _Binding(nn.Module):
    """Binds the vectors of a kind, a colour and a position by products, two and three at a time.

    Products of learned factors carry over to pairs of factors that were never met together; a plain
    network on their sum learned the pairs that it met and composed others worse.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(4 * _HIDDEN, width)

    def forward(
        self, kind: torch.Tensor, colour: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        pair = kind * colour
        products = torch.cat([pair, kind * position, colour * position, pair * position], dim=-1)
        bound: torch.Tensor = self.out(products)
        return bound


class FactTower(nn.Module):
    """Embeds scenes as a sum over their objects.

    A sum, and no interaction between objects, because one attention pooling over a feature map must
    be able to imitate it.

    Args:
        width: Size of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # The last row of each stands for "any" in instructions.
        self.kinds = nn.Embedding(len(KINDS) + 1, _HIDDEN)
        self.colours = nn.Embedding(len(COLOURS) + 1, _HIDDEN)
        for table in (self.kinds, self.colours):
            nn.init.normal_(table.weight, std=0.7)
        self.position = nn.Sequential(nn.Linear(8, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _HIDDEN))
        self.bind = _Binding(width)

    def forward(self, table: SceneTable) -> torch.Tensor:
        """Unit vectors, float32 of shape ``(n, width)``."""
        kinds = self.kinds(torch.from_numpy(np.maximum(table.kinds, 0)))
        colours = self.colours(torch.from_numpy(np.maximum(table.colours, 0)))
        present = torch.from_numpy(table.kinds >= 0)[..., None].float()
        bound = self.bind(kinds, colours, self.position(_position_features(table)))
        return nn.functional.normalize((bound * present).sum(dim=1), dim=-1)


class MeaningTower(nn.Module):
    """Embeds what instructions mean, with the fact tower's vectors of kinds and colours.

    Args:
        facts: The fact tower to share with.
        width: Size of the embedding.
        rank: Dimensions that the embeddings may span. The text tower ends in a linear map from its
        width,
            so it can imitate no more than that.
    """

    def __init__(self, facts: FactTower, width: int, rank: int) -> None:
        super().__init__()
        self.facts = facts
        self.places = nn.Embedding(len(PLACES) + 1, _HIDDEN)
        self.target_relations = nn.Embedding(len(RELATIONS) + 2, _HIDDEN)
        self.reference_relations = nn.Embedding(len(RELATIONS) + 2, _HIDDEN)
        for table in (self.target_relations, self.reference_relations):
            nn.init.normal_(table.weight, mean=1.0, std=0.3)
        self.bind_target = _Binding(rank)
        self.bind_reference = _Binding(rank)
        self.out = nn.Linear(rank, width, bias=False)

    def forward(self, instructions: Sequence[Instruction]) -> torch.Tensor:
        """Unit vectors, float32 of shape ``(n, width)``."""
        relations = torch.tensor([_relation_index(instruction) for instruction in instructions])
        target = self.bind_target(
            *self._factors(
                [instruction.target for instruction in instructions],
                self.target_relations(relations),
            )
        )
        references = [instruction.reference or ObjectPhrase() for instruction in instructions]
        reference = self.bind_reference(
            *self._factors(references, self.reference_relations(relations))
        )
        named = (relations != _NO_RELATION).float()[:, None]
        return nn.functional.normalize(self.out(target + named * reference), dim=-1)

    def _factors(
        self, phrases: Sequence[ObjectPhrase], relation: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kinds = [_index(KINDS, phrase.kind) for phrase in phrases]
        colours = [_index(COLOURS, phrase.colour) for phrase in phrases]
        places = [_index(PLACES, phrase.place) for phrase in phrases]
        return (
            self.facts.kinds(torch.tensor(kinds)),
            self.facts.colours(torch.tensor(colours)),
            self.places(torch.tensor(places)) * relation,
        )


def _index(words: Sequence[str], word: str | None) -> int:
    return len(words) if word is None else words.index(word)


def _relation_index(instruction: Instruction) -> int:
    if instruction.relation is None:
        return _NO_RELATION
    return _GOAL if instruction.relation_is_goal else RELATIONS.index(instruction.relation)


def _position_features(table: SceneTable) -> torch.Tensor:
    """Which column and row an object stands in, softly: float32 ``(n, 4, 8)``."""
    cells = np.nan_to_num(table.positions) / CELL
    nearness = np.exp(-8.0 * (cells[..., None] - np.array([-1.0, 0.0, 1.0])) ** 2)
    features = np.concatenate([nearness.reshape(*cells.shape[:2], 6), cells], axis=-1)
    return torch.from_numpy(features.astype(np.float32))
