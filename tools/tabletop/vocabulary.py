"""What exists on the table: kinds, colours, places and relations, and what is held out.

The held-out combinations of colour, kind and place are the honesty of the demonstration model: one
that ``split_of`` gives to the test split is never rendered and never named in a training
instruction, so the figures measured on it tell whether the model composes what it met only apart.
"""

from typing import Final, Literal

Split = Literal["train", "validation", "test"]

KINDS: Final = ("cup", "bowl", "plate", "bottle", "can", "block", "ball", "banana", "spoon")
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PLACES: Final = (
    "left",
    "right",
    "front",
    "back",
    "middle",
    "front left",
    "front right",
    "back left",
    "back right",
)
RELATIONS: Final = ("left of", "right of", "in front of", "behind", "next to")

RGB: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.80, 0.07, 0.07),
    "orange": (0.98, 0.44, 0.04),
    "yellow": (0.96, 0.84, 0.08),
    "green": (0.10, 0.58, 0.16),
    "blue": (0.08, 0.24, 0.80),
    "purple": (0.48, 0.14, 0.66),
    "white": (0.95, 0.95, 0.94),
    "black": (0.05, 0.05, 0.06),
}
"""Linear base colour of each colour name; rendering jitters it a little."""

Pair = tuple[str, str]

ALL_PAIRS: Final[tuple[Pair, ...]] = tuple((colour, kind) for kind in KINDS for colour in COLOURS)

AREAS: Final = 6
"""The table's cells by row and by distance from its middle line: left and right count as one area,
because training also shows scenes in a mirror."""

_SPLITS_BY_CODE: Final[dict[int, Split]] = {0: "test", 4: "validation"}


def split_of(colour: str, kind: str, area: int) -> Split:
    """Return which split alone shows an object of this colour and kind in this area of the table.

    One combination in eight belongs to the test and one in eight to the validation split. Every
    pair of colour and kind is trained in four areas at least.

    Args:
        colour: One of ``COLOURS``.
        kind: One of ``KINDS``.
        area: From 0 to ``AREAS`` - 1.
    """
    code = (3 * KINDS.index(kind) + COLOURS.index(colour) + area) % 8
    return _SPLITS_BY_CODE.get(code, "train")
