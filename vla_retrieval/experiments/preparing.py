"""What an evaluation asks, and of which memory: the same for bags and for a running node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame, Recording
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.evaluation.relevance import Labels, normalise, read_labels
from vla_retrieval.evaluation.splits import Split, split_frames
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.experiments.settings import ExperimentSettings


@dataclass(frozen=True)
class Prepared:
    """Bags that were read, and their frames' parts.

    Attributes:
        recordings: One per bag.
        split: Which frames make the memory and which ask.
    """

    recordings: tuple[Recording, ...]
    split: Split

    def in_order(self) -> list[Frame]:
        """Return the frames that the split uses, in the order of the bags."""
        used = {f.query_id for part in self._parts() for f in part}
        frames = (frame for recording in self.recordings for frame in recording.frames)
        return [frame for frame in frames if frame.query_id in used]

    def counts(self, refused: int) -> dict[str, int]:
        """Return numbers to be shown.

        Args:
            refused: Images that turned out to be none when they were decoded.
        """
        found: Counter[str] = Counter()
        for recording in self.recordings:
            found["bags"] += 1
            found["images"] += recording.images
            found["frames"] += len(recording.frames)
            found["episodes"] += len(recording.episodes)
            found["images refused"] += sum(recording.refused.values())
        found["images refused"] += refused
        return {**found, **self.split.counts}

    def notes(self) -> list[str]:
        """Return sentences about what was chosen and left out."""
        return [*(n for recording in self.recordings for n in recording.notes), *self.split.notes]

    def _parts(self) -> tuple[Sequence[Frame], ...]:
        return self.split.gallery, self.split.queries, self.split.absent


def prepare(paths: Sequence[Path], settings: ExperimentSettings) -> Prepared:
    """Read bags and split their frames.

    Args:
        paths: Of rosbag2 folders or files.
        settings: What is wanted.

    Raises:
        InvalidInputError: If a bag cannot be evaluated, or the labels cannot be read.
    """
    recordings = read_recordings(paths, settings.reading)
    frames = [frame for recording in recordings for frame in recording.frames]
    group = normalise
    if settings.relevance == "labels" and settings.relevance_file is not None:
        group = Labels(read_labels(settings.relevance_file)).__call__
    return Prepared(tuple(recordings), split_frames(frames, settings.split, group))


def check_parts(gallery: Sequence[Frame], queries: Sequence[Frame]) -> None:
    """Raise InvalidInputError where nobody asks or nothing can be found."""
    if not gallery or not queries:
        raise InvalidInputError(
            "split", "frames that make the memory and frames that ask for them",
            f"{len(gallery)} and {len(queries)}",
            "Record each instruction in two episodes at least, or name other bags.",
        )  # fmt: skip


def asking(frames: Iterable[Frame], direction: str) -> tuple[Frame, ...]:
    """Return the queries that frames make in a direction: where only words ask, each wording once.

    Args:
        frames: In order; of equal wordings the first asks.
        direction: Of ``DIRECTIONS``.
    """
    if DIRECTIONS[direction][0]:
        return tuple(frames)
    first: dict[str, Frame] = {}
    for frame in frames:
        first.setdefault(frame.instruction, frame)
    return tuple(first.values())


def refusals(refused: Mapping[str, int]) -> list[str]:
    """Return sentences about images that could not be decoded.

    Args:
        refused: Why -> how many.
    """
    return [
        f"{count} image(s) could not be decoded: {reason}."
        for reason, count in sorted(refused.items())
    ]
