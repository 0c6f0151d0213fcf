"""What the players of recorded frames have in common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.frames import Frame

Progress = Callable[[str, int, int], None]

_LOOK_AGAIN_SEC = 0.02

PLAYERS = ("auto", "ros2bag", "own")


@dataclass(frozen=True)
class ReplayOptions:
    """How frames are played.

    Attributes:
        rate: Speed against the bag's own time; 0 plays the next frame when the last one is
            answered, so that none is dropped.
        most_gap_sec: Longest pause between two frames, before ``rate``: what lies between two
            episodes that ask is not played. ``ros2 bag`` plays the pauses as they are.
        answer_sec: Longest wait for the answers to a frame, at rate 0 and at the end of a bag.
        player: ``ros2bag``: ``ros2 bag play``. ``own``: the package's. ``auto``: the first where it
            can play these bags, else the second.

    Raises:
        InvalidInputError: If a number is out of its range, or there is no such player.
    """

    rate: float = 1.0
    most_gap_sec: float = 1.0
    answer_sec: float = 10.0
    player: str = "auto"

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("rate", "most_gap_sec", "answer_sec"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(name, "a finite number from 0 on", str(value))
        if self.player not in PLAYERS:
            raise InvalidInputError("player", f"one of {', '.join(PLAYERS)}", repr(self.player))


@dataclass(frozen=True)
class Showing:
    """A frame that was shown to the node.

    Attributes:
        shown_sec: When, on the steady clock (``time.monotonic``).
        delay_sec: How old it was then.
        clock_rate: Seconds of the node's clock in a second.
    """

    frame: Frame
    shown_sec: float
    delay_sec: float = 0.0
    clock_rate: float = 1.0

    def waited_sec(self, at_sec: float) -> float:
        """Return how old the frame is at a time of the steady clock, in seconds."""
        return at_sec - self.shown_sec + self.delay_sec

    def age_sec(self, by_node_sec: float) -> float:
        """Return an age that the node gives by its clock, in seconds that really pass."""
        return (by_node_sec - self.delay_sec) / self.clock_rate + self.delay_sec


class Listener(Protocol):
    """Who hears the answers, as a player sees it."""

    def wait_for(self, frame: Frame, within_sec: float, *, also_outdated: bool = False) -> bool:
        """Return whether a frame, and all that was asked about it, is answered in time.

        Args:
            frame: Showing before.
            within_sec: Longest wait.
            also_outdated: An answer with another instruction will do.
        """
        ...

    def wait_until_quiet(self, within_sec: float) -> bool:
        """Return whether nothing is asked any more in time."""
        ...


class Player(Protocol):
    """Shows recorded frames to a node that may answer them."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the node has to be set to while this plays."""
        ...

    @property
    def images_sent(self) -> int:
        """Images that went out so far, asked about or not."""
        ...

    def play(self, frames: Sequence[Frame], listener: Listener, progress: Progress) -> None:
        """Show frames, in the time of their bags, and give the last ones time to be answered.

        Args:
            frames: In the order of their bags.
            listener: Hears the answers.
            progress: Told how far it is.

        Raises:
            RetrievalError: If they cannot be played to the end, or the node ends meanwhile.
            TimeoutError: If the node does not listen.
        """
        ...

    def find(self, stamp_ns: int, frame_id: str) -> Showing | None:
        """Return the frame with the header of an answer, or None if it was not asked about.

        Args:
            stamp_ns: Of the header.
            frame_id: Of the header.
        """
        ...

    def describe(self) -> str:
        """Return sentences about how it plays, for the report."""
        ...


def wait_until(condition: Callable[[], object], within_sec: float, otherwise: str) -> None:
    """Return once something is true that nothing announces, as what is in the ROS graph.

    Args:
        condition: Is asked again and again.
        within_sec: Longest wait.
        otherwise: What to say if it does not become true.

    Raises:
        TimeoutError: Then.
    """
    end = time.monotonic() + within_sec
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(_LOOK_AGAIN_SEC)


def check_listening(subscriptions: int, topic: str) -> None:
    """Raise RetrievalError if nobody listens any more: the rest of a long bag would go to nobody.

    Args:
        subscriptions: How many there are to the topic.
        topic: Of the images.
    """
    if not subscriptions:
        raise RetrievalError(
            f"the node stopped listening to {topic} while frames were played: it ended or was "
            "deactivated, and its log says why"
        )
