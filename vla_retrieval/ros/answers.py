"""Hears what a node answers about the frames that it is shown, and asks it more about each."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vla_retrieval.errors import RetrievalError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.experiments.live import Hit
from vla_retrieval.experiments.searching import DIRECTIONS, asking
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns
from vla_retrieval.ros.playing import Player, Progress, Showing
from vla_retrieval.types import Target
from vla_retrieval_msgs.msg import Query

_WITHIN_SEC = 60.0
_GONE_SEC = 1.0
_TARGETS = {
    Target.SCENES: Query.TARGET_SCENES,
    Target.INSTRUCTIONS: Query.TARGET_INSTRUCTIONS,
    Target.PAIR: Query.TARGET_PAIR,
}
_PUBLISHED = "pair"
"""The direction that the node publishes; the others are asked for by service."""
_STAGES = ("queue", "decode", "encode_image", "encode_instruction", "search", "fetch", "total")


class Answers:
    """Keeps a node's answers to the frames that a player shows it.

    Args:
        client: Of the node.
        positions: Entry id to position in the gallery.
        depth: How many matches are asked for.
        player: Knows which frame an answer is about.

    Attributes:
        hits: Direction -> query id -> the answer, best first.
        latencies: Seconds from each answered frame to its matches.
        ages: Ages of the frames that answers used when the node sent them, in seconds.
        stalenesses: How old the newest answered frame was when the next answer came, in seconds.
        stages: Stage -> the node's own seconds for each answer.
        foreign: Matches with entries that are not the gallery's.
    """

    def __init__(
        self, client: RetrievalClient, positions: Mapping[int, int], depth: int, player: Player
    ) -> None:
        self._client = client
        self._positions = positions
        self._depth = depth
        self._player = player
        # Everything below is shared by the thread that plays and the one that hears.
        self._changed = threading.Condition()
        self.hits: dict[str, dict[str, list[Hit]]] = {name: {} for name in DIRECTIONS}
        self.latencies: list[float] = []
        self.ages: list[float] = []
        self.stalenesses: list[float] = []
        self.stages: dict[str, list[float]] = {}
        self.foreign = 0
        self._newest: Showing | None = None
        self._outdated: set[str] = set()
        self._waiting = 0

    @property
    def answered(self) -> int:
        """Frames that were answered with the instruction in force."""
        return len(self.hits[_PUBLISHED])

    @property
    def outdated(self) -> int:
        """Frames that were answered with another instruction only."""
        return len(self._outdated)

    def wait_for(self, frame: Frame, within_sec: float, *, also_outdated: bool = False) -> bool:
        """Return whether a frame, and all that was asked about it, is answered in time.

        Args:
            frame: Shown before.
            within_sec: Longest wait.
            also_outdated: An answer with another instruction will do.
        """

        def answered() -> bool:
            heard = frame.query_id in self.hits[_PUBLISHED]
            return (
                heard or (also_outdated and frame.query_id in self._outdated)
            ) and not self._waiting

        with self._changed:
            return self._changed.wait_for(answered, within_sec)

    def wait_until_quiet(self, within_sec: float) -> bool:
        """Return whether nothing is asked any more in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, within_sec)

    def take(self, message: Any) -> None:
        """Keep what the node published about a frame, and ask more about it."""
        at_sec = time.monotonic()
        stamp_ns = to_ns(message.header.stamp)
        with self._changed:
            showing = self._player.find(stamp_ns, message.header.frame_id)
            if showing is None:
                return
            self._note_times(message, showing, at_sec)
            frame = showing.frame
            if message.query.instruction != frame.instruction:
                self._outdated.add(frame.query_id)
            else:
                self._outdated.discard(frame.query_id)
                self.hits[_PUBLISHED][frame.query_id] = self._hits_of(message)
                self._ask_about(frame, message.header)
            self._changed.notify_all()

    def ask_by_words(self, frames: Sequence[Frame], progress: Progress) -> None:
        """Ask what needs no image, by service.

        Raises:
            RetrievalError: If the node refuses.
            TimeoutError: If it does not answer.
        """
        for direction, (by_image, _, target) in DIRECTIONS.items():
            if by_image:
                continue
            asked = asking(frames, direction)
            for number, frame in enumerate(asked):
                response = self._client.call(
                    "retrieve", _WITHIN_SEC, instruction=frame.instruction,
                    target=_TARGETS[target], k=self._depth,
                )  # fmt: skip
                if not response.success:
                    raise RetrievalError(f"{frame.instruction!r}: {response.message}")
                self.hits[direction][frame.query_id] = self._hits_of(response.result)
                progress(f"asking: {direction}", number + 1, len(asked))

    def _note_times(self, message: Any, showing: Showing, at_sec: float) -> None:
        self.latencies.append(showing.waited_sec(at_sec))
        self.ages.append(showing.age_sec(float(message.image_age_sec)))
        if self._newest is not None:
            self.stalenesses.append(self._newest.waited_sec(at_sec))
        if self._newest is None or showing.shown_sec > self._newest.shown_sec:
            self._newest = showing
        for stage in _STAGES:
            seconds = float(getattr(message.times, f"{stage}_sec"))
            self.stages.setdefault(stage.replace("_", " "), []).append(seconds)

    def _ask_about(self, frame: Frame, header: Any) -> None:
        """Ask by service about the frame that was just answered, while it is the newest one."""
        for direction, (by_image, by_text, target) in DIRECTIONS.items():
            if by_image and not by_text:
                try:
                    future = self._client.call_async(
                        "retrieve", _GONE_SEC, use_newest_frame=True, target=_TARGETS[target],
                        k=self._depth,
                    )  # fmt: skip
                except TimeoutError:
                    # The node has ended. This thread is the one that hears: it neither waits long,
                    # nor ends, which would look like a node that does not answer.
                    return
                self._waiting += 1
                future.add_done_callback(
                    lambda future, direction=direction: self._on_answer(
                        direction, frame, header, future.result()
                    )
                )

    def _on_answer(self, direction: str, frame: Frame, header: Any, response: Any) -> None:
        with self._changed:
            self._waiting -= 1
            # Another frame may have become the newest one meanwhile; that one is asked about too.
            if response.success and response.result.header == header:
                self.hits[direction][frame.query_id] = self._hits_of(response.result)
            self._changed.notify_all()

    def _hits_of(self, answer: Any) -> list[Hit]:
        known = [m for m in answer.matches if m.entry_id in self._positions]
        self.foreign += len(answer.matches) - len(known)
        return [(self._positions[m.entry_id], float(m.score)) for m in known]
