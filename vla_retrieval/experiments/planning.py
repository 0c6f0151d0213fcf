"""What an evaluation of bags is about, before anything is encoded: the same offline and live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frame_lists import joined
from vla_retrieval.evaluation.frames import Frame, Recording
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.evaluation.relevance import Labels, normalise, read_labels
from vla_retrieval.evaluation.splits import Split, split_frames, thin
from vla_retrieval.evaluation.trec import read_qrels
from vla_retrieval.experiments.settings import ExperimentSettings

_RELEVANT = {
    "instruction": "Relevant is an entry with the query's instruction, however it is written.",
    "episode": "Relevant is an entry of the query's episode.",
    "labels": "Relevant is an entry whose instruction has the task label of the query's.",
    "qrels": "Relevant is what the qrels file says.",
}


@dataclass(frozen=True)
class Plan:
    """Which frames make the memory, and which ask.

    Attributes:
        recordings: What the bags hold.
        bags: Names of those that have a side.
        frames: Theirs, in order, without those that were thinned out: all that may be needed,
            whatever the seed.
        split: Of these frames.
        settings: What is wanted.
    """

    recordings: tuple[Recording, ...]
    bags: tuple[str, ...]
    frames: Sequence[Frame]
    split: Split
    settings: ExperimentSettings

    @property
    def notes(self) -> list[str]:
        """Sentences about what was chosen and left out."""
        notes = [note for recording in self.recordings for note in recording.notes]
        return [*notes, *self.split.notes, _RELEVANT[self.settings.relevance]]

    def counts(self, refused: int) -> dict[str, int]:
        """Return name to number.

        Args:
            refused: Images that turned out not to be pictures.
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


def make_plan(paths: Sequence[Path], settings: ExperimentSettings) -> Plan:
    """Read bags and divide their frames.

    Args:
        paths: Of rosbag2 folders or files.
        settings: What is wanted.

    Raises:
        InvalidInputError: If a bag cannot be evaluated.
    """
    answerable: frozenset[str] = frozenset()
    if settings.relevance == "qrels" and settings.relevance_file is not None:
        qrels = read_qrels(settings.relevance_file)  # a file that is none costs no encoding
        answerable = frozenset(qrels.answerable)
    recordings = read_recordings(paths, settings.reading)
    frames = joined([recording.frames for recording in recordings])
    group = normalise
    if settings.relevance == "labels" and settings.relevance_file is not None:
        group = Labels(read_labels(settings.relevance_file)).__call__
    within = settings.relevance == "episode"
    split = split_frames(
        frames, settings.split, group, within_episodes=within, answerable=answerable
    )
    chosen = settings.split
    named = {*chosen.gallery_bags, *chosen.query_bags}
    both = chosen.gallery_bags and chosen.query_bags
    used = [recording for recording in recordings if not both or recording.bag in named]
    kept, _ = thin(joined([recording.frames for recording in used]), chosen.every_sec)
    return Plan(recordings, tuple(recording.bag for recording in used), kept, split, settings)


def check_sides(gallery: Sequence[Frame], split: Split) -> None:
    """Refuse an evaluation without a memory or without a query.

    Args:
        gallery: Frames that make the memory and have a picture.
        split: Of all frames.

    Raises:
        InvalidInputError: If one of them is empty.
    """
    if gallery and split.queries:
        return
    near = split.counts["frames too near"]
    raise InvalidInputError(
        "split", "frames that make the memory and frames that ask for them",
        f"{len(gallery)} and {len(split.queries)}"
        + (f", without {near} that --exclude-within-sec leaves out" if near else ""),
        "Take a lower --exclude-within-sec." if near else
        "Record each instruction in two episodes at least, say with --relevance labels:FILE "
        "which ones mean the same, or name bags with --gallery-bag and --query-bag.",
    )  # fmt: skip
