"""Arguments that ``evaluate`` and ``replay_evaluation`` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_retrieval.encoders import EncoderSettings
from vla_retrieval.evaluation.episodes import EpisodeRule
from vla_retrieval.evaluation.frames import STAMP_SOURCES, ReadOptions
from vla_retrieval.evaluation.splits import SplitOptions
from vla_retrieval.evaluation.topics import TopicOptions
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.types import Similarity


def settings_of(args: argparse.Namespace) -> ExperimentSettings:
    """Return what the arguments say.

    Raises:
        InvalidInputError: If a value is out of its range.
    """
    kind, _, file = args.relevance.partition(":")
    return ExperimentSettings(
        reading=ReadOptions(
            TopicOptions(
                tuple(args.image_topic), args.instruction_topic, args.episode_topic
            ),
            EpisodeRule(not args.episodes_by_marker_only, args.gap_sec),
            args.stamps,
        ),
        split=SplitOptions(
            args.query_fraction, args.absent_fraction, tuple(args.gallery_bag),
            tuple(args.query_bag), args.every_sec, args.exclude_within_sec, args.seed,
        ),
        relevance=kind,
        relevance_file=Path(file) if file else None,
        similarity=Similarity(getattr(args, "similarity", "cosine")),
        scene_weight=args.scene_weight,
        depth=args.depth,
        ks=tuple(args.k),
        alpha=args.alpha,
        seed=args.seed,
    )  # fmt: skip


def encoder_of(args: argparse.Namespace) -> EncoderSettings:
    """Return which encoder the arguments name."""
    return EncoderSettings(
        model=args.model, pretrained=args.pretrained, checkpoint=args.checkpoint,
        device=args.device, precision=args.precision,
    )  # fmt: skip


def add_model(group: argparse._ArgumentGroup) -> None:
    """Add what chooses the encoder."""
    defaults = EncoderSettings()
    for name in ("model", "pretrained", "checkpoint", "device", "precision"):
        group.add_argument(f"--{name}", default=getattr(defaults, name))


def add_reading(group: argparse._ArgumentGroup) -> None:
    """Add how bags are read."""
    group.add_argument("--image-topic", action="append", default=[], help="for each camera")
    group.add_argument("--instruction-topic", default="")
    group.add_argument("--episode-topic", default="", help="whose messages begin episodes")
    group.add_argument("--episodes-by-marker-only", action="store_true")
    group.add_argument("--gap-sec", type=float, default=0.0, help="that ends an episode; 0: none")
    group.add_argument("--stamps", choices=STAMP_SOURCES, default="header")


def add_split(group: argparse._ArgumentGroup) -> None:
    """Add which frames make the memory and which ask."""
    group.add_argument("--query-fraction", type=float, default=0.5, help="of episodes that ask")
    group.add_argument(
        "--absent-fraction", type=float, default=0.0,
        help="of episodes whose instruction no other has, asked as absent",
    )  # fmt: skip
    group.add_argument("--gallery-bag", action="append", default=[], help="that makes the memory")
    group.add_argument("--query-bag", action="append", default=[], help="that asks")
    group.add_argument("--every-sec", type=float, default=0.0, help="one frame per")
    group.add_argument("--exclude-within-sec", type=float, default=0.0)
    group.add_argument("--seed", type=int, default=0)


def add_scoring(group: argparse._ArgumentGroup, *, with_similarity: bool) -> None:
    """Add how answers are scored; a running node has a similarity of its own."""
    group.add_argument(
        "--relevance", default="instruction",
        help="instruction, episode, labels:FILE or qrels:FILE (default: instruction)",
    )  # fmt: skip
    group.add_argument("--k", type=int, nargs="+", default=[1, 5, 10])
    group.add_argument("--depth", type=int, default=100, help="entries retrieved (100)")
    if with_similarity:
        choices = [similarity.value for similarity in Similarity]
        group.add_argument("--similarity", choices=choices, default="cosine")
    group.add_argument("--scene-weight", type=float, default=0.5, help="in the pair (0.5)")
    group.add_argument(
        "--alpha", type=float, default=0.05, help="share of answerable queries called unknown"
    )
