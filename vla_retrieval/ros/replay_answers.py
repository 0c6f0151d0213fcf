"""Takes what a running node answers to frames, and what it says when asked about them again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns
from vla_retrieval.ros.replay_node import checked
from vla_retrieval_msgs.msg import MatchArray, Query, StageTimes

PUBLISHED = "pair"
"""The direction that the node publishes answers in during a replay."""

FOLLOW_UPS: Mapping[str, int] = {
    "scene to instructions": Query.TARGET_INSTRUCTIONS,
    "scene to scenes": Query.TARGET_SCENES,
}
"""Directions that are asked about the newest frame, once it is answered."""

Hits = tuple[tuple[int, float], ...]


@dataclass
class Played:
    """A frame that went out, and what came back.

    Attributes:
        stamp_ns: Its header's stamp, which is when it went out, in nanoseconds since the epoch.
        received_ns: When the first answer with its own instruction came; 0 without one.
        age_sec: As the answer says: of the frame, when the node sent the answer.
        other_instruction: Whether an answer came that had been asked with another instruction.
        exact: Whether the answer says that no entry is missing.
        times: The node's, by stage, in seconds.
        hits: Direction to entry ids and scores, best first.
    """

    frame: Frame
    stamp_ns: int
    received_ns: int = 0
    age_sec: float = 0.0
    other_instruction: bool = False
    exact: bool = True
    times: dict[str, float] = field(default_factory=dict)
    hits: dict[str, Hits] = field(default_factory=dict)


class Recorder:
    """Records ``~/matches``, and asks about each answered frame in other directions.

    Attributes:
        arrivals: Of each frame's first answer, in order: when, and the frame's stamp, both in
            nanoseconds since the epoch.
        moved_on: Answers in other directions that were about a newer frame.
    """

    def __init__(self, client: RetrievalClient, depth: int, *, follow_up: bool) -> None:
        """Subscribe.

        Args:
            client: Of the node.
            depth: Entries wanted per query.
            follow_up: Whether to ask in the directions of ``FOLLOW_UPS``.
        """
        self._client = client
        self._depth = depth
        self._follow_up = follow_up
        self._played: dict[int, Played] = {}
        self.arrivals: list[tuple[int, int]] = []
        self.moved_on = 0
        self._waiting = 0
        # Protects all of the above: the client's thread takes answers, the player adds frames.
        self._changed = threading.Condition()
        self._subscription = client.node.create_subscription(
            MatchArray, "retrieval/matches", self._on_matches, 100
        )

    @property
    def played(self) -> list[Played]:
        """The frames that went out, in order."""
        return list(self._played.values())

    def has_publisher(self) -> bool:
        """Whether the node was discovered."""
        return self._subscription.get_publisher_count() > 0

    def expect(self, frame: Frame, stamp_ns: int) -> None:
        """Note a frame that is about to go out."""
        with self._changed:
            self._played[stamp_ns] = Played(frame, stamp_ns)

    def wait_for_last(self, within_sec: float) -> None:
        """Return once the last frame is answered and nothing is under way, or time is up."""

        def is_done() -> bool:
            last = next(reversed(self._played.values()), None)
            return not self._waiting and (last is None or bool(last.received_ns))

        with self._changed:
            self._changed.wait_for(is_done, within_sec)

    def close(self) -> None:
        """Stop listening."""
        self._client.node.destroy_subscription(self._subscription)

    def _on_matches(self, message: MatchArray) -> None:
        now_ns = time.time_ns()
        with self._changed:
            played = self._played.get(to_ns(message.header.stamp))
            if played is None or played.received_ns:
                return
            if message.query.instruction != played.frame.instruction:
                played.other_instruction = True
                return
            played.received_ns = now_ns
            played.age_sec = message.image_age_sec
            played.exact = message.exact
            played.times = times_of(message)
            played.hits[PUBLISHED] = hits_of(message)
            self.arrivals.append((now_ns, played.stamp_ns))
            self._changed.notify_all()
        if self._follow_up:
            for direction, target in FOLLOW_UPS.items():
                self._ask(direction, target)

    def _ask(self, direction: str, target: int) -> None:
        with self._changed:
            self._waiting += 1
        future = self._client.call_async(
            "retrieve", use_newest_frame=True, target=target, k=self._depth
        )
        future.add_done_callback(partial(self._on_answer, direction))

    def _on_answer(self, direction: str, future: Any) -> None:
        response = future.result()
        with self._changed:
            self._waiting -= 1
            if response is not None and response.success:
                self._take(direction, response.result)
            self._changed.notify_all()

    def _take(self, direction: str, answer: MatchArray) -> None:
        # The newest frame may be a newer one by then; what is said of that is its answer as well.
        played = self._played.get(to_ns(answer.header.stamp))
        if played is None or direction in played.hits:
            self.moved_on += 1
            return
        played.hits[direction] = hits_of(answer)


def hits_of(answer: MatchArray) -> Hits:
    """Return entry ids and scores, best first."""
    return tuple((match.entry_id, match.score) for match in answer.matches)


def times_of(answer: MatchArray) -> dict[str, float]:
    """Return the node's times in seconds, by stage."""
    suffix = "_sec"
    names = StageTimes.get_fields_and_field_types()
    return {
        name.removesuffix(suffix).replace("_", " "): float(getattr(answer.times, name))
        for name in names
    }


def ask_wordings(
    client: RetrievalClient, frames: tuple[Frame, ...], target: int, depth: int,
    progress: Callable[[int, int], None],
) -> list[Hits]:
    """Ask with the frames' instructions alone; return what was found for each.

    Raises:
        RetrievalError: If the node refuses one.
        TimeoutError: If it does not answer.
    """  # fmt: skip
    found = []
    for done, frame in enumerate(frames):
        progress(done, len(frames))
        answer = client.call("retrieve", instruction=frame.instruction, target=target, k=depth)
        found.append(hits_of(checked(answer).result))
    progress(len(frames), len(frames))
    return found
