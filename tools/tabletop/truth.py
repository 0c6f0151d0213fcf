"""``satisfies`` for many instructions and many scenes at once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tools.tabletop.dataset import SceneTable
from tools.tabletop.language import Instruction, ObjectPhrase
from tools.tabletop.scene import APART, NEAR, SIDE
from tools.tabletop.vocabulary import COLOURS, KINDS, PLACES, RELATIONS

BoolArray = npt.NDArray[np.bool_]


def truth_matrix(instructions: Sequence[Instruction], table: SceneTable) -> BoolArray:
    """Whether each instruction fits each scene, shape ``(len(instructions), len(table))``.

    Equal to calling ``language.satisfies`` on every pair, and about a thousand times faster.
    """
    places = _places(table)
    relations = _relations(table)
    first = _matches([instruction.target for instruction in instructions], table, places)
    truth: BoolArray = np.asarray(first.any(axis=2))
    paired = [
        row for row, instruction in enumerate(instructions) if instruction.reference is not None
    ]
    if paired:
        second = _matches([instructions[row].reference for row in paired], table, places)
        wanted = [_relation_row(instructions[row]) for row in paired]
        both = first[paired][:, :, :, None] & second[:, :, None, :] & relations[wanted]
        truth[paired] = both.any(axis=(2, 3))
    return truth


def _relation_row(instruction: Instruction) -> int:
    if instruction.relation_is_goal or instruction.relation is None:
        return len(RELATIONS)
    return RELATIONS.index(instruction.relation)


def _matches(
    phrases: Sequence[ObjectPhrase | None], table: SceneTable, places: BoolArray
) -> BoolArray:
    """Whether each phrase matches each object: shape ``(phrases, scenes, 4)``."""
    wanted = [phrase or ObjectPhrase() for phrase in phrases]
    kinds = np.array([-1 if phrase.kind is None else KINDS.index(phrase.kind) for phrase in wanted])
    colours = np.array(
        [-1 if phrase.colour is None else COLOURS.index(phrase.colour) for phrase in wanted]
    )
    rows = [
        len(PLACES) if phrase.place is None else PLACES.index(phrase.place) for phrase in wanted
    ]
    kind_fits = (kinds[:, None, None] == -1) | (kinds[:, None, None] == table.kinds)
    colour_fits = (colours[:, None, None] == -1) | (colours[:, None, None] == table.colours)
    matches: BoolArray = kind_fits & colour_fits & places[rows]
    return matches


def _places(table: SceneTable) -> BoolArray:
    """Shape ``(places + 1, scenes, 4)``; the last row tells whether there is an object at all."""
    x, y = table.positions[..., 0], table.positions[..., 1]
    sides = {
        "left": x < -SIDE,
        "right": x > SIDE,
        "front": y < -SIDE,
        "back": y > SIDE,
        "middle": (np.abs(x) < SIDE) & (np.abs(y) < SIDE),
    }
    rows = [np.logical_and.reduce([sides[word] for word in place.split()]) for place in PLACES]
    return np.stack([*rows, table.kinds >= 0])


def _relations(table: SceneTable) -> BoolArray:
    """Shape ``(relations + 1, scenes, 4, 4)``; the last row holds for any two different objects."""
    x, y = table.positions[..., 0], table.positions[..., 1]
    right = x[:, :, None] - x[:, None, :]
    away = y[:, :, None] - y[:, None, :]
    different = ~np.eye(table.kinds.shape[1], dtype=bool)
    present = (table.kinds >= 0)[:, :, None] & (table.kinds >= 0)[:, None, :] & different
    rows = {
        "left of": right < -APART,
        "right of": right > APART,
        "in front of": away < -APART,
        "behind": away > APART,
        "next to": (np.abs(right) < NEAR) & (np.abs(away) < NEAR),
    }
    return np.stack([*(rows[relation] & present for relation in RELATIONS), present])
