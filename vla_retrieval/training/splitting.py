"""Which episodes are learned from, which decide when to stop, and which only measure.

The unit is the episode. A side can only measure a label that it has two episodes of: one asks and
the other one is to be found. So a label with many episodes is divided, and one with few goes to one
side as a whole. The draw is by SHA-256, equal for equal episodes in one order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.training.data import Pairs

SIDES = ("train", "validation", "test")
VALIDATION, TEST = 0.15, 0.2
_TO_DIVIDE = 6
"""Episodes of a label from which on each side gets two at least."""
_PAIR = 2
_LABELS = 2


@dataclass(frozen=True, eq=False)
class SplitRows:
    """Rows of pairs by side, ascending; no episode is on two sides.

    Attributes:
        train: Are learned from.
        validation: Decide when to stop.
        test: Are held out, and measured at the end.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def counts(self, pairs: Pairs) -> dict[str, dict[str, int]]:
        """Return pairs, episodes and labels of each side."""
        return {side: _counted(pairs, getattr(self, side)) for side in SIDES}


def split_episodes(pairs: Pairs, seed: int) -> SplitRows:
    """Divide pairs by episode.

    Raises:
        InvalidInputError: If they are of too few labels or episodes; the message says what lacks.
    """
    _check(pairs)
    side_of: dict[str, str] = {}
    episodes_of: dict[str, list[str]] = {}
    for label, episode in zip(pairs.labels, pairs.episodes, strict=True):
        episodes_of.setdefault(label, [])
        if episode not in episodes_of[label]:
            episodes_of[label].append(episode)
    whole: list[str] = []
    divided = 0
    for number, (label, episodes) in enumerate(episodes_of.items()):
        free = [episode for episode in episodes if episode not in side_of]
        if len(free) >= _TO_DIVIDE:
            side_of |= _divided(free, seed, number)
            divided += 1
        elif len(free) >= _PAIR:
            whole.append(label)
        else:
            side_of |= dict.fromkeys(free, "train")
    for label, side in _sides_of_labels(whole, divided, seed).items():
        side_of |= {e: side for e in episodes_of[label] if e not in side_of}
    sides = np.array([SIDES.index(side_of[episode]) for episode in pairs.episodes])
    found = SplitRows(*(np.flatnonzero(sides == i) for i in range(len(SIDES))))
    _check_sides(pairs, found)
    return found


def _divided(episodes: list[str], seed: int, number: int) -> dict[str, str]:
    drawn = _drawn(episodes, f"{seed} label {number}")
    test = max(_PAIR, round(TEST * len(drawn)))
    validation = max(_PAIR, round(VALIDATION * len(drawn)))
    names = ["test"] * test + ["validation"] * validation
    names += ["train"] * (len(drawn) - len(names))
    return dict(zip(drawn, names, strict=True))


def _sides_of_labels(labels: list[str], divided: int, seed: int) -> dict[str, str]:
    """Give whole labels to the sides, so that each side has two with those that were divided."""
    drawn = _drawn(labels, f"{seed} labels")
    least = max(0, _LABELS - divided)
    test = max(least, round(TEST * len(drawn)))
    validation = max(least, round(VALIDATION * len(drawn)))
    names = ["test"] * test + ["validation"] * validation + ["train"] * len(drawn)
    return dict(zip(drawn, names, strict=False))


def _drawn(names: list[str], salt: str) -> list[str]:
    """Return names in an order that depends on the seed and their place, not on what they are."""
    keys = [hashlib.sha256(f"{salt} {place}".encode()).digest() for place in range(len(names))]
    return [names[place] for place in sorted(range(len(names)), key=keys.__getitem__)]


def _check(pairs: Pairs) -> None:
    labels, episodes = len(set(pairs.labels)), len(set(pairs.episodes))
    got = f"{len(pairs)} pairs of {labels} label(s) and {episodes} episode(s)"
    if pairs.left_out:
        got += f", and {pairs.left_out} pairs without a label"
    if not len(pairs):
        raise InvalidInputError(
            "pairs", "pairs with labels", got,
            "Remember some first, or name a label key that entries have.",
        )  # fmt: skip
    if labels < 2:
        raise InvalidInputError(
            "labels", "two different instructions or labels at least", got,
            "One alone has nothing to be told apart from.",
        )  # fmt: skip
    if episodes < 2:
        raise InvalidInputError(
            "episodes", "several episodes of each instruction", got,
            "Without episodes nothing can be held out: store each pair with its episode_id.",
        )  # fmt: skip


def _check_sides(pairs: Pairs, rows: SplitRows) -> None:
    """Refuse sides that cannot do what they are for."""
    for side in SIDES:
        counted = _counted(pairs, getattr(rows, side))
        if counted["labels"] < _LABELS or not counted["answerable"]:
            raise InvalidInputError(
                "episodes",
                f"two labels at least on each side, with two episodes of one ({side})",
                f"{counted['labels']} label(s) and {counted['answerable']} label(s) with two"
                f" episodes, of {len(pairs)} pairs, {len(set(pairs.labels))} labels and"
                f" {len(set(pairs.episodes))} episodes in all",
                "Record more: six episodes of each of two instructions are enough, or two episodes"
                " of each of six. --labels and --same say which instructions are one task.",
            )  # fmt: skip


def _counted(pairs: Pairs, rows: NDArray[np.int64]) -> dict[str, int]:
    episodes_of: dict[str, set[str]] = {}
    for row in rows.tolist():
        episodes_of.setdefault(pairs.labels[row], set()).add(pairs.episodes[row])
    return {
        "pairs": len(rows),
        "episodes": len({pairs.episodes[row] for row in rows.tolist()}),
        "labels": len(episodes_of),
        "answerable": sum(len(of) > 1 for of in episodes_of.values()),
    }
