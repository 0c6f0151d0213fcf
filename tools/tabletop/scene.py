"""What stands where on the table, and how it is seen: the truth that instructions are judged by.

The table's x axis points right and its y axis away, both as the robot sees them, in metres from the
middle of the table. Objects stand in the cells of a 3 x 3 grid, moved a little within their cell.
Cells are far enough apart that every place and every relation below holds or fails by a clear
margin: at least 3 cm for a place, and 2 cm for a relation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tools.tabletop.vocabulary import (
    ALL_PAIRS,
    Pair,
    Split,
    split_of,
)

CELL: Final = 0.20
"""Distance of neighbouring cell centres, in metres."""
JITTER: Final = 0.03
"""How far an object may stand from its cell's centre along each axis, in metres."""
SIDE: Final = 0.10
"""An object further out than this is at the left, right, front or back, in metres."""
APART: Final = 0.08
"""An object at least this much further along an axis is left of, behind, ... another, in metres."""
NEAR: Final = 0.30
"""Objects closer than this along both axes are next to each other, in metres."""
MAX_OBJECTS: Final = 4


@dataclass(frozen=True)
class TableObject:
    """One object: what it is, its colour, and where it stands (metres; ``turn`` in radians)."""

    kind: str
    colour: str
    x: float
    y: float
    turn: float = 0.0
    variant: int = 0

    @property
    def pair(self) -> Pair:
        """The (colour, kind) pair, of which a scene has one object at most."""
        return (self.colour, self.kind)

    @property
    def split(self) -> Split:
        """The split that alone shows this pair in this area of the table."""
        column, row = round(self.x / CELL), round(self.y / CELL)
        return split_of(self.colour, self.kind, 2 * (row + 1) + abs(column))

    def at(self, place: str) -> bool:
        """Whether the object stands at one of ``PLACES``."""
        sides = {
            "left": self.x < -SIDE,
            "right": self.x > SIDE,
            "front": self.y < -SIDE,
            "back": self.y > SIDE,
            "middle": abs(self.x) < SIDE and abs(self.y) < SIDE,
        }
        return all(sides[word] for word in place.split())

    def stands(self, relation: str, other: "TableObject") -> bool:
        """Whether one of ``RELATIONS`` holds between this and another, as the robot sees them."""
        right, away = self.x - other.x, self.y - other.y
        return {
            "left of": right < -APART,
            "right of": right > APART,
            "in front of": away < -APART,
            "behind": away > APART,
            "next to": abs(right) < NEAR and abs(away) < NEAR,
        }[relation]


@dataclass(frozen=True)
class Scene:
    """The objects on the table, no two of the same (colour, kind) pair."""

    objects: tuple[TableObject, ...]

    @property
    def pairs(self) -> frozenset[Pair]:
        """The (colour, kind) pairs on the table."""
        return frozenset(item.pair for item in self.objects)


def sample_scene(rng: np.random.Generator, split: Split) -> Scene:
    """Draw a scene of two to four objects.

    Scenes of the validation and test splits hold at least one combination of their own; training
    scenes hold none of either.
    """
    while True:
        count = int(rng.choice([2, 3, 4], p=[0.25, 0.45, 0.30]))
        pairs = rng.choice(len(ALL_PAIRS), size=count, replace=False)
        cells = rng.choice(9, size=count, replace=False)
        scene = Scene(
            tuple(
                _placed(rng, ALL_PAIRS[int(pair)], int(cell))
                for pair, cell in zip(pairs, cells, strict=True)
            )
        )
        shown = {item.split for item in scene.objects}
        if shown <= {"train", split} and split in shown:
            return scene


def scene_of(rng: np.random.Generator, pairs: Sequence[Pair]) -> Scene:
    """Draw where objects of the given pairs stand, whatever split that belongs to.

    Args:
        rng: The source of chance.
        pairs: Different ones, at most ``MAX_OBJECTS``.
    """
    cells = rng.choice(9, size=len(pairs), replace=False)
    return Scene(tuple(_placed(rng, p, int(c)) for p, c in zip(pairs, cells, strict=True)))


def _placed(rng: np.random.Generator, pair: Pair, cell: int) -> TableObject:
    row, column = divmod(cell, 3)
    x, y = (np.array([column, row]) - 1) * CELL + rng.uniform(-JITTER, JITTER, 2)
    turn = float(rng.uniform(-np.pi, np.pi))
    return TableObject(pair[1], pair[0], float(x), float(y), turn, int(rng.integers(2)))


def altered(rng: np.random.Generator, scene: Scene) -> Scene:
    """A training scene that differs from ``scene`` in one respect only.

    Two objects trade places, two trade colours, one changes its colour or kind, or one moves: the
    near misses from which a model learns that the order of words and the place of things matter.
    """
    for _ in range(20):
        objects = list(scene.objects)
        i, j = (int(index) for index in rng.choice(len(objects), size=2, replace=False))
        first, second = objects[i], objects[j]
        match int(rng.integers(4)):
            case 0:
                objects[i] = replace(first, x=second.x, y=second.y)
                objects[j] = replace(second, x=first.x, y=first.y)
            case 1:
                objects[i] = replace(first, colour=second.colour)
                objects[j] = replace(second, colour=first.colour)
            case 2:
                colour, kind = ALL_PAIRS[int(rng.integers(len(ALL_PAIRS)))]
                keep_kind = bool(rng.integers(2))
                objects[i] = (
                    replace(first, colour=colour) if keep_kind else replace(first, kind=kind)
                )
            case _:
                objects[i] = replace(
                    _placed(rng, first.pair, _free_cell(rng, scene)), variant=first.variant
                )
        candidate = Scene(tuple(objects))
        distinct = len(candidate.pairs) == len(objects)
        trained = all(item.split == "train" for item in candidate.objects)
        if candidate != scene and distinct and trained:
            return candidate
    return sample_scene(rng, "train")


def _free_cell(rng: np.random.Generator, scene: Scene) -> int:
    taken = {round(item.y / CELL + 1) * 3 + round(item.x / CELL + 1) for item in scene.objects}
    free = [cell for cell in range(9) if cell not in taken]
    return int(rng.choice(free))


def mirrored(scene: Scene) -> Scene:
    """The scene as in a mirror: left and right trade places."""
    return Scene(tuple(replace(item, x=-item.x, turn=np.pi - item.turn) for item in scene.objects))
