"""What evaluations of bags and of a running node are told alike."""

from __future__ import annotations

import argparse
from pathlib import Path

from vla_retrieval.evaluation.episodes import EpisodeRule
from vla_retrieval.evaluation.frames import STAMP_SOURCES, ReadOptions
from vla_retrieval.evaluation.splits import SplitOptions
from vla_retrieval.evaluation.topics import TopicOptions
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.types import Similarity


def settings_of(args: argparse.Namespace) -> ExperimentSettings:
    """Return what the arguments ask for.

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
        similarity=Similarity(args.similarity),
        scene_weight=args.scene_weight,
        depth=args.depth,
        ks=tuple(args.k),
        alpha=args.alpha,
        seed=args.seed,
    )  # fmt: skip


def add_result(parser: argparse.ArgumentParser) -> None:
    """Add the bags, and where the result goes."""
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders or files")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the report")
    parser.add_argument("--title", default="Retrieval evaluation")
    parser.add_argument("--json", action="store_true", help="the result on stdout, as JSON")


def add_scoring(parser: argparse.ArgumentParser, depth: int) -> argparse._ArgumentGroup:
    """Add what is relevant, and how deep rankings are; return the group."""
    group = parser.add_argument_group("scoring")
    group.add_argument(
        "--relevance", default="instruction",
        help="instruction, episode, labels:FILE or qrels:FILE (default: instruction)",
    )  # fmt: skip
    group.add_argument("--k", type=int, nargs="+", default=[1, 5, 10])
    group.add_argument("--depth", type=int, default=depth, help=f"entries retrieved ({depth})")
    group.add_argument("--scene-weight", type=float, default=0.5, help="in the pair (0.5)")
    group.add_argument(
        "--alpha", type=float, default=0.05, help="share of answerable queries called unknown"
    )
    return group


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how bags are read."""
    group = parser.add_argument_group("reading")
    group.add_argument("--image-topic", action="append", default=[], help="for each camera")
    group.add_argument("--instruction-topic", default="")
    group.add_argument("--episode-topic", default="", help="whose messages begin episodes")
    group.add_argument("--episodes-by-marker-only", action="store_true")
    group.add_argument("--gap-sec", type=float, default=0.0, help="that ends an episode; 0: none")
    group.add_argument("--stamps", choices=STAMP_SOURCES, default="header")


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add which episodes make the memory and which ask."""
    group = parser.add_argument_group("memory and queries")
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
