"""Which instruction is in force at a stamp, and where one episode ends and the next begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_retrieval.errors import InvalidInputError

_NS_PER_SEC = 1_000_000_000


@dataclass(frozen=True)
class EpisodeRule:
    """What ends an episode.

    Attributes:
        at_instructions: Whether another instruction does. The same words again do not, written in
            any way (``relevance.normalise``).
        gap_sec: Whether, and how long, a time without a frame does: two frames that are further
            apart belong to different episodes. 0: no time does.

    Raises:
        InvalidInputError: If ``gap_sec`` is negative or NaN.
    """

    at_instructions: bool = True
    gap_sec: float = 0.0

    def __post_init__(self) -> None:
        """Check the gap."""
        if not self.gap_sec >= 0:
            raise InvalidInputError("gap_sec", "a number from 0 on", str(self.gap_sec))


def in_force(frame_ns: ArrayLike, instruction_ns: ArrayLike) -> NDArray[np.int64]:
    """Return which instruction holds at each frame.

    Args:
        frame_ns: Stamps of ``n`` frames, in any order.
        instruction_ns: Stamps of the instructions, ascending.

    Returns:
        Int64, shape ``(n,)``: the position of the last instruction whose stamp is not above the
        frame's, and -1 where there is none.
    """
    frames = np.array(frame_ns, np.int64)
    given = np.array(instruction_ns, np.int64)
    return np.searchsorted(given, frames, side="right").astype(np.int64) - 1


def runs_of(texts: ArrayLike) -> NDArray[np.int64]:
    """Number instructions so that one that repeats the words before it has the same number.

    Args:
        texts: Their words, or numbers that stand for those.

    Returns:
        Int64, one for each text, ascending from 0.
    """
    words = np.asarray(texts)
    changes = np.cumsum(words[1:] != words[:-1])
    return np.concatenate([np.zeros(min(len(words), 1)), changes]).astype(np.int64)


def number_episodes(
    frame_ns: ArrayLike, runs: ArrayLike, marker_ns: ArrayLike, rule: EpisodeRule
) -> NDArray[np.int64]:
    """Number the episodes of one bag.

    Args:
        frame_ns: Stamps of the frames, ascending.
        runs: Each frame's instruction, as ``runs_of`` numbers them.
        marker_ns: Stamps of markers, in any order. Each begins an episode, at its own stamp; a
            marker without frames after it, before the next one, begins none.
        rule: What else does.

    Returns:
        Int64, one for each frame, ascending from 0 in steps of 1.
    """
    stamps = np.array(frame_ns, np.int64)
    if not len(stamps):
        return np.zeros(0, np.int64)
    cut = np.zeros(len(stamps) - 1, bool)
    if rule.at_instructions:
        cut |= np.diff(np.array(runs, np.int64)) != 0
    if rule.gap_sec:
        cut |= np.diff(stamps) > rule.gap_sec * _NS_PER_SEC
    markers = np.sort(np.array(marker_ns, np.int64))
    cut |= np.diff(np.searchsorted(markers, stamps, side="right")) != 0
    return np.concatenate([[0], np.cumsum(cut)]).astype(np.int64)
