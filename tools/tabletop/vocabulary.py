"""What exists on the table: kinds, colours, places and relations, and which pairs are held out.

The held-out pairs are the honesty of the demonstration model. A pair such as ``("black", "cup")``
that is listed in ``TEST_PAIRS`` is never rendered and never named in a training instruction, so the
figures measured on it tell whether the model composes a colour and a kind that it met only apart.
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

TEST_PAIRS: Final[frozenset[Pair]] = frozenset(
    {
        ("red", "cup"),
        ("orange", "bowl"),
        ("yellow", "plate"),
        ("green", "bottle"),
        ("blue", "can"),
        ("purple", "block"),
        ("white", "ball"),
        ("black", "banana"),
        ("green", "spoon"),
    }
)
"""(colour, kind) pairs seen in the test gallery only: one for each kind."""

VALIDATION_PAIRS: Final[frozenset[Pair]] = frozenset(
    {
        ("white", "bottle"),
        ("purple", "cup"),
        ("blue", "bowl"),
        ("red", "banana"),
        ("yellow", "can"),
        ("orange", "block"),
    }
)
"""(colour, kind) pairs seen in the validation gallery only, on which settings are chosen."""

ALL_PAIRS: Final[tuple[Pair, ...]] = tuple((colour, kind) for kind in KINDS for colour in COLOURS)

TRAIN_PAIRS: Final[tuple[Pair, ...]] = tuple(
    pair for pair in ALL_PAIRS if pair not in TEST_PAIRS and pair not in VALIDATION_PAIRS
)
"""The pairs that training scenes and training instructions are drawn from."""
