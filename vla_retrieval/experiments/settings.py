"""What an evaluation is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla_retrieval.calibration import fewest_episodes
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import ReadOptions
from vla_retrieval.evaluation.splits import SplitOptions
from vla_retrieval.types import Similarity

RELEVANCE = ("instruction", "episode", "labels", "qrels")


@dataclass(frozen=True)
class ExperimentSettings:
    """What an evaluation is asked to do.

    Attributes:
        reading: How bags are read.
        split: Which frames make the memory and which ask.
        relevance: What makes an entry relevant: the same normalised ``instruction``, the same
            ``episode``, the same task label (``labels``), or a TREC file (``qrels``).
        relevance_file: Of the labels or the qrels.
        similarity: How embeddings are compared.
        scene_weight: Of the scene in the pair, in [0, 1].
        depth: Entries retrieved per query, at least the largest K.
        ks: Ranks at which metrics are cut.
        alpha: Share of answerable queries that may count as unknown, in [0.001, 0.5].
        seed: Of bootstraps and of the choice of map points, from 0 on.

    Raises:
        InvalidInputError: If a value is out of its range.
    """

    reading: ReadOptions = field(default_factory=ReadOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    relevance: str = "instruction"
    relevance_file: Path | None = None
    similarity: Similarity = Similarity.COSINE
    scene_weight: float = 0.5
    depth: int = 100
    ks: tuple[int, ...] = (1, 5, 10)
    alpha: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each value against its range."""
        if self.relevance not in RELEVANCE:
            expected = f"one of {', '.join(RELEVANCE)}"
            raise InvalidInputError("relevance", expected, repr(self.relevance))
        if (self.relevance in ("labels", "qrels")) != (self.relevance_file is not None):
            raise InvalidInputError(
                "relevance", "a file with labels or qrels, and none otherwise",
                f"{self.relevance} with {self.relevance_file or 'none'}",
                "Name it after a colon: labels:FILE, qrels:FILE.",
            )  # fmt: skip
        if not 0.0 <= self.scene_weight <= 1.0:
            raise InvalidInputError("scene_weight", "a number in [0, 1]", str(self.scene_weight))
        fewest_episodes(self.alpha)  # refuses what no calibration takes
        if self.seed < 0:
            raise InvalidInputError("seed", "a whole number from 0 on", str(self.seed))
        if not self.ks or min(self.ks) < 1:
            raise InvalidInputError("ks", "whole numbers from 1 on", str(list(self.ks)))
        if self.depth < max(self.ks):
            raise InvalidInputError(
                "depth", f"at least the largest K, {max(self.ks)}", str(self.depth)
            )

    def deciding(self) -> Mapping[str, Any]:
        """Return what decides numbers, as JSON has it; names of files and bags do not.

        Which bags are on which side shows in the frames of each.
        """
        values = asdict(self)
        values["split"] |= {"gallery_bags": (), "query_bags": ()}
        values["similarity"] = self.similarity.value
        values["relevance_file"] = None
        return values

    def shown(self) -> dict[str, str]:
        """Return the settings as people read them."""
        split, reading = self.split, self.reading
        kind = self.relevance + (f" from {self.relevance_file.name}" if self.relevance_file else "")
        return {
            "relevance": kind,
            "episodes end at": (
                ("instruction changes" if reading.episodes.at_instructions else "markers only")
                + (f", gaps of {reading.episodes.gap_sec:g} s" if reading.episodes.gap_sec else "")
            ),
            "stamps": reading.stamps,
            "asking share of episodes": f"{split.query_fraction:g}",
            "absent share of single episodes": f"{split.absent_fraction:g}",
            "one frame per": f"{split.every_sec:g} s" if split.every_sec else "frame",
            "asking frames keep away by": f"{split.exclude_within_sec:g} s",
            "similarity": self.similarity.value,
            "scene weight in the pair": f"{self.scene_weight:g}",
            "entries retrieved": str(self.depth),
            "seed of the split": str(split.seed),
        }
