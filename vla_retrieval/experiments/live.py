"""A running node's answers, as an evaluation takes them. No ROS in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import LiveResult
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments import scoring
from vla_retrieval.experiments.frame_store import THUMBNAIL_PX
from vla_retrieval.experiments.searching import askers
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Embeddings, Modality

PUBLISHED = "pair"
"""The direction that the node publishes; it is asked for the others."""

Hits = Sequence[tuple[int, float]]
"""Entry ids of the node's memory with their scores."""


@dataclass(frozen=True)
class LiveAnswer:
    """One answer that a frame got while the bag was played.

    Attributes:
        hits: Its matches.
        instruction: That the node held to be in force.
        arrived_sec: When it came, on the clock of ``stamped_sec``.
        stamped_sec: The image's stamp.
        stages_sec: The node's own account, by stage; ``total`` is all of it.
    """

    hits: Hits
    instruction: str
    arrived_sec: float
    stamped_sec: float
    stages_sec: Mapping[str, float]

    @property
    def latency_sec(self) -> float:
        """From the image's stamp to the answer."""
        return self.arrived_sec - self.stamped_sec


@dataclass(frozen=True)
class Pass:
    """What came of playing frames.

    Attributes:
        played: The frames, in order.
        answers: Query id to answer, in order of arrival.
        counted: What the node counted meanwhile: ``frames_received``, ``frames_rejected``,
            ``queries_answered``, ``queries_failed``.
    """

    played: tuple[Frame, ...]
    answers: Mapping[str, LiveAnswer]
    counted: Mapping[str, int] = field(default_factory=dict)

    def usable(self) -> dict[str, LiveAnswer]:
        """Return the answers that were given under the frame's own instruction."""
        return {
            frame.query_id: answer
            for frame in self.played
            if (answer := self.answers.get(frame.query_id)) is not None
            and answer.instruction == frame.instruction
        }

    def result(self) -> LiveResult:
        """Return latencies, ages and what became of the others."""
        answers = sorted(self.answers.values(), key=lambda answer: answer.arrived_sec)
        ages = [a.latency_sec - a.stages_sec.get("total", 0.0) for a in answers]
        peaks = [after.arrived_sec - before.stamped_sec for before, after in pairwise(answers)]
        stages: dict[str, list[float]] = {}
        for answer in answers:
            for stage, sec in answer.stages_sec.items():
                stages.setdefault(stage, []).append(sec)
        return LiveResult(
            len(self.played), len(answers),
            scoring.summarise([answer.latency_sec for answer in answers]),
            scoring.summarise(ages), scoring.summarise(peaks), self._drops(),
            {stage: scoring.summarise(seconds) for stage, seconds in stages.items()},
        )  # fmt: skip

    def _drops(self) -> dict[str, int]:
        """Return why frames have no answer, as far as the node's counts tell."""
        missing = len(self.played) - len(self.answers)
        count = Counter(self.counted)
        causes = {
            "did not reach the node": len(self.played) - count["frames_received"],
            "refused by the node": count["frames_rejected"],
            "failed in the node": count["queries_failed"],
            "answered, but the answer did not come back": (
                count["queries_answered"] - len(self.answers)
            ),
        }
        found: dict[str, int] = {}
        for cause, number in causes.items():
            found[cause] = max(0, min(number, missing))
            missing -= found[cause]
        # The node takes the newest frame, so what is left came while it was busy.
        return {**found, "a newer frame came while the node was busy": missing}


class LiveAnswers:
    """Answers queries by what a running node said.

    Args:
        gallery: Frames that the node remembers, in order.
        entry_ids: Theirs, in the node's memory.
        refused: Why it did not remember others -> how many.
        played: What came of playing those that ask.
        ask: Asks the node about a frame in a direction.
        embeddings: Returns an entry's two halves from the node, by its id.
        depth: Most matches of an answer.
    """

    def __init__(
        self,
        gallery: Sequence[Frame],
        entry_ids: Sequence[int],
        refused: Mapping[str, int],
        played: Pass,
        ask: Callable[[Frame, str], Hits],
        embeddings: Callable[[int], Mapping[Modality, Embeddings]],
        depth: int,
    ) -> None:
        """Number the gallery from 0 on."""
        self.refused = refused
        self._gallery = tuple(gallery)
        self._entry_ids = tuple(entry_ids)
        self._number_of = {entry_id: number for number, entry_id in enumerate(entry_ids)}
        self._answers = played.usable()
        self._ask = ask
        self._embeddings = embeddings
        self._halves: dict[int, Mapping[Modality, Embeddings]] = {}
        self._depth = depth

    @property
    def gallery(self) -> tuple[Frame, ...]:
        """Entries; rankings name them by position."""
        return self._gallery

    def rank(self, frames: Sequence[Frame], direction: str) -> tuple[tuple[Frame, ...], Run]:
        """Return those that were answered, and the answers.

        Where the image asks, these are frames that were answered while the bag was played. Words
        alone ask whether or not their frames were answered.
        """
        asked = askers(frames, direction)
        if direction.startswith("instruction"):
            hits = [self._ask(frame, direction) for frame in asked]
        else:
            asked = [frame for frame in asked if frame.query_id in self._answers]
            hits = [
                self._answers[frame.query_id].hits
                if direction == PUBLISHED
                else self._ask(frame, direction)
                for frame in asked
            ]
        # An entry that somebody else remembered meanwhile is none of the gallery's.
        known = [[(self._number_of[e], s) for e, s in one if e in self._number_of] for one in hits]
        rows = [row for row, one in enumerate(known) for _ in one]
        run = Run.from_hits(
            tuple(frame.query_id for frame in asked), np.array(rows, np.int64),
            np.array([entry for one in known for entry, _ in one], np.int64),
            np.array([score for one in known for _, score in one], np.float64), self._depth,
        )  # fmt: skip
        return tuple(asked), run

    def thumbnail(self, frame: Frame) -> bytes:
        """Return a frame's small picture, as JPEG."""
        return make_thumbnail(frame.image(), THUMBNAIL_PX)

    def gallery_embeddings(self, rows: Sequence[int], modality: Modality) -> Embeddings:
        """Return one half of some entries, shape ``(n, dim)``."""
        for row in rows:
            if row not in self._halves:
                self._halves[row] = self._embeddings(self._entry_ids[row])
        return np.stack([self._halves[row][modality] for row in rows])
