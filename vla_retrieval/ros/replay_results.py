"""From what a replay recorded to rankings and to figures about the answers themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.results import LiveResult
from vla_retrieval.evaluation.run import Run
from vla_retrieval.evaluation.splits import Split
from vla_retrieval.experiments.concluding import Answers
from vla_retrieval.experiments.frame_store import Progress
from vla_retrieval.experiments.preparing import asking
from vla_retrieval.experiments.scoring import summarise
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import TARGET_NUMBERS
from vla_retrieval.ros.replay_answers import Hits, Played, ask_wordings
from vla_retrieval.ros.replay_node import Gallery

COUNTERS = ("frames_received", "frames_rejected", "frames_skipped", "queries_failed")
"""Those of the node that tell why frames have no answer."""

_NS_PER_SEC = 1_000_000_000


@dataclass(frozen=True)
class Pass:
    """What a replay recorded.

    Attributes:
        played: Frames that went out, in order.
        arrivals: Of each answer to a frame, in order: when it came and the frame's stamp, in
            nanoseconds since the epoch.
        moved_on: Answers in other directions that are about a newer frame than was meant.
        refused: Why frames could not be sent -> how many.
        counted: By how much each of ``COUNTERS`` rose meanwhile.
    """

    played: Sequence[Played]
    arrivals: Sequence[tuple[int, int]]
    moved_on: int
    refused: Mapping[str, int]
    counted: Mapping[str, int]


def answers_of(
    client: RetrievalClient,
    found: Pass,
    gallery: Gallery,
    split: Split,
    settings: ExperimentSettings,
    progress: Progress,
) -> dict[str, Answers]:
    """Return rankings by direction; directions of words alone are asked for now.

    Directions without any answer are left out.

    Raises:
        RetrievalError: If the node refuses a request, or its memory was changed meanwhile.
        TimeoutError: If it does not answer.
    """
    sent = {one.frame.query_id: one for one in found.played}
    answers: dict[str, Answers] = {}
    for direction, (by_image, _, target) in DIRECTIONS.items():
        halves: list[tuple[tuple[Frame, ...], list[Hits]]] = []
        for part in (split.queries, split.absent):
            frames = asking((f for f in part if f.query_id in sent), direction)
            if by_image:
                frames = tuple(f for f in frames if direction in sent[f.query_id].hits)
                hits = [sent[f.query_id].hits[direction] for f in frames]
            else:
                hits = ask_wordings(
                    client, frames, TARGET_NUMBERS[target], settings.depth,
                    lambda done, total, doing=f"asking: {direction}": progress(doing, done, total),
                )  # fmt: skip
            halves.append((frames, hits))
        (queries, hits), (absent, absent_hits) = halves
        if queries:
            run = _run(queries, hits, gallery, settings.depth)
            top = np.array([best[0][1] if best else np.nan for best in absent_hits])
            answers[direction] = Answers(queries, run, absent, top)
    return answers


def _run(frames: Sequence[Frame], hits: Sequence[Hits], gallery: Gallery, depth: int) -> Run:
    rows = [row for row, one in enumerate(hits) for _ in one]
    positions = [gallery.position(entry_id) for one in hits for entry_id, _ in one]
    scores = [score for one in hits for _, score in one]
    return Run.from_hits(
        tuple(frame.query_id for frame in frames), np.array(rows, np.int64),
        np.array(positions, np.int64), np.array(scores, np.float64), depth,
    )  # fmt: skip


def live_result(found: Pass) -> LiveResult:
    """Return what only a running node shows."""
    answered = [one for one in found.played if one.received_ns]
    latencies = [(one.received_ns - one.stamp_ns) / _NS_PER_SEC for one in answered]
    stages = {
        name: summarise([one.times[name] for one in answered]) for name in answered[0].times
    }
    return LiveResult(
        len(found.played),
        len(answered),
        summarise(latencies),
        summarise([one.age_sec for one in answered]),
        summarise(_staleness_sec(found.arrivals)),
        drops(found),
        stages,
    )


def drops(found: Pass) -> dict[str, int]:
    """Return causes and how many frames have no answer for each.

    The node counts frames that never came, that it skipped and that it refused; what is left was
    answered, but with another instruction or without the answer being heard.
    """
    left = sum(not one.received_ns for one in found.played)
    other = sum(one.other_instruction and not one.received_ns for one in found.played)
    causes = {
        "lost on the way to the node": len(found.played) - found.counted["frames_received"],
        "skipped for a newer frame": found.counted["frames_skipped"],
        "refused by the node": found.counted["frames_rejected"],
        "answered with another instruction": other,
        "query failed": found.counted["queries_failed"],
        "answer not heard": left,
    }
    shares = {}
    for cause, count in causes.items():
        shares[cause] = min(max(0, count), left)
        left -= shares[cause]
    return shares


def _staleness_sec(arrivals: Sequence[tuple[int, int]]) -> list[float]:
    """Return how old the newest answer's frame was when the next answer came."""
    times: NDArray[np.int64] = np.array(arrivals, np.int64).reshape(-1, 2)
    return [float(later[0] - before[1]) / _NS_PER_SEC for before, later in pairwise(times)]
