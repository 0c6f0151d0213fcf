"""``evaluate``: retrieval metrics from rosbags, with a report; and comparisons of such reports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vla_retrieval.cli.output import as_option, print_error, print_json, progress_bars
from vla_retrieval.encoders import Encoder, EncoderSettings, load_encoder
from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.episodes import EpisodeRule
from vla_retrieval.evaluation.frames import STAMP_SOURCES, ReadOptions
from vla_retrieval.evaluation.gates import parse_gate
from vla_retrieval.evaluation.report.json_file import to_json
from vla_retrieval.evaluation.report.terminal import print_evaluation
from vla_retrieval.evaluation.splits import SplitOptions
from vla_retrieval.evaluation.topics import TopicOptions
from vla_retrieval.experiments.comparing import compare_folders
from vla_retrieval.experiments.folder import check_folder, write_folder
from vla_retrieval.experiments.offline import evaluate_bags
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.heads import load_head
from vla_retrieval.projection import Head
from vla_retrieval.types import Similarity

_EXIT_CODES = "exit codes: 0 done, 1 failed or a gate did, 2 wrong usage, 130 interrupted"


_MODEL = {
    "model": "open_clip model, e.g. ViT-B-32/laion2b_s34b_b79k",
    "pretrained": "its pretrained tag, where the model does not name it",
    "checkpoint": "weights file instead of a pretrained tag",
    "device": "auto, cpu, cuda or cuda:N",
    "engine": "auto, torch, openvino or onnxruntime",
    "precision": "auto, fp32, fp16, bf16 or int8",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    comparing = given[:1] == ["compare"]
    parser = _compare_parser() if comparing else _parser()
    args = parser.parse_args(given[int(comparing) :])
    try:
        _check_usage(args, comparing=comparing)
    except InvalidInputError as error:
        parser.error(as_option(error, parser.format_usage()))
    try:
        code = _compare(args) if comparing else _evaluate(args)
    except RetrievalError as error:
        print_error("evaluate", error, as_json=args.json, usage=parser.format_usage())
        code = 1
    except KeyboardInterrupt:
        print("evaluate: interrupted; the same call goes on from here.", file=sys.stderr)
        code = 130
    sys.exit(code)


def _check_usage(args: argparse.Namespace, *, comparing: bool) -> None:
    """Check what can be told without a look at any file: a wrong gate is no gate that failed.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    if not comparing:
        experiment_settings(args)
        encoder_settings(args)
        return
    for gate in args.fail_if_worse:
        parse_gate(gate)
    if len(args.folders) < 2:
        raise InvalidInputError("folders", "two results or more", f"{len(args.folders)}")


def _evaluate(args: argparse.Namespace) -> int:
    check_folder(args.out)
    settings = experiment_settings(args)
    work = args.work or args.out.with_name(f"{args.out.name}.work")
    encoder = load_encoder(encoder_settings(args))
    head = head_of(args, encoder)
    with progress_bars() as progress:
        outcome = evaluate_bags(args.bags, encoder, settings, work, progress, head)
    write_folder(outcome, args.out, args.title)
    evaluation = outcome.evaluation
    if args.json:
        print(to_json(evaluation))  # NaN has no place in plain JSON
        return 0
    console = Console()
    print_evaluation(evaluation, console)
    console.print(f"report: {args.out / 'index.html'}", highlight=False, markup=False)
    return 0


def _compare(args: argparse.Namespace) -> int:
    tables, code = compare_folders(
        args.folders, args.metrics, args.fail_if_worse, args.page, args.common
    )
    if args.json:
        print_json({name: table for name, (table, _) in tables.items()})
    else:
        console = Console()
        for _, drawn in tables.values():
            console.print(drawn)
        if args.fail_if_worse:
            failed = [name for name, (table, _) in tables.items() if table.exit_code]
            verdict = f"FAILED: {', '.join(failed)}" if failed else "hold in every direction"
            console.print(f"gates {', '.join(args.fail_if_worse)}: {verdict}", highlight=False)
    return code


def encoder_settings(args: argparse.Namespace) -> EncoderSettings:
    """Return what the arguments of ``add_model`` say."""
    return EncoderSettings(
        model=args.model, pretrained=args.pretrained, checkpoint=args.checkpoint,
        device=args.device, engine=args.engine, precision=args.precision,
    )  # fmt: skip


def experiment_settings(args: argparse.Namespace) -> ExperimentSettings:
    """Return what the arguments of ``add_reading``, ``add_split`` and ``add_scoring`` say."""
    kind, _, file = args.relevance.partition(":")
    return ExperimentSettings(
        reading=reading_of(args),
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description="Evaluate retrieval on rosbags: some episodes make the memory, others ask it.\n"
        "`evaluate compare A B` compares two results.",
        epilog="example: evaluate BAG --relevance labels:TASKS.yaml --out report\n\n" + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders or files")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the report")
    parser.add_argument("--work", type=Path, help="folder that lets a broken run go on (OUT.work)")
    parser.add_argument("--title", default="Retrieval evaluation", help="of the page")
    parser.add_argument("--json", action="store_true", help="the result on stdout, as JSON")
    model = parser.add_argument_group("model")
    add_model(model)
    add_head(model)
    add_reading(parser.add_argument_group("reading"))
    add_split(parser.add_argument_group("memory and queries"))
    add_scoring(parser.add_argument_group("scoring"))
    return parser


def reading_of(args: argparse.Namespace) -> ReadOptions:
    """Return how bags are read, from the arguments of ``add_reading``."""
    return ReadOptions(
        TopicOptions(tuple(args.image_topic), args.instruction_topic, args.episode_topic),
        EpisodeRule(not args.episodes_by_marker_only, args.gap_sec),
        args.stamps,
    )


def add_scoring(group: argparse._ArgumentGroup) -> None:
    """Declare what makes an entry relevant, and what is measured."""
    group.add_argument(
        "--relevance", default="instruction",
        help="what is relevant: the same instruction (default), the rest of the same episode, the"
        " same task by labels:FILE (YAML or JSON), or what a TREC file says, qrels:FILE",
    )  # fmt: skip
    group.add_argument("--k", type=int, nargs="+", default=[1, 5, 10], help="of metrics (1 5 10)")
    group.add_argument("--depth", type=int, default=100, help="entries retrieved (100)")
    group.add_argument(
        "--similarity", choices=[s.value for s in Similarity], default="cosine",
        help="how embeddings are compared (default: cosine)",
    )  # fmt: skip
    group.add_argument("--scene-weight", type=float, default=0.5, help="in the pair (0.5)")
    group.add_argument(
        "--alpha", type=float, default=0.05, help="share of answerable queries called unknown"
    )


def add_model(group: argparse._ArgumentGroup) -> None:
    """Declare which encoder makes the embeddings."""
    defaults = EncoderSettings()
    for name, text in _MODEL.items():
        default = getattr(defaults, name)
        shown = f"{text} (default: {default})" if default else text
        group.add_argument(f"--{name}", default=default, help=shown)


def add_head(group: argparse._ArgumentGroup) -> None:
    """Declare which learned head projects the embeddings."""
    group.add_argument("--head", type=Path, help="file of a learned head (default: none)")


def head_of(args: argparse.Namespace, encoder: Encoder) -> Head | None:
    """Return the head that the argument of ``add_head`` names, or None.

    Raises:
        HeadError: If it cannot be read, or was made for another encoder.
    """
    return None if args.head is None else load_head(args.head, encoder.fingerprint)


def add_reading(group: argparse._ArgumentGroup) -> None:
    """Declare how bags are read."""
    group.add_argument(
        "--image-topic", action="append", default=[], metavar="TOPIC",
        help="of a camera in the bag; several times for several cameras (default: found by type)",
    )  # fmt: skip
    group.add_argument(
        "--instruction-topic", default="", metavar="TOPIC",
        help="of the instructions in the bag (default: found by type and name)",
    )  # fmt: skip
    group.add_argument(
        "--episode-topic", default="", metavar="TOPIC",
        help="each of its messages begins an episode (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--episodes-by-marker-only", action="store_true",
        help="another instruction begins no episode, only markers and gaps do",
    )  # fmt: skip
    group.add_argument(
        "--gap-sec", type=float, default=0.0, metavar="SEC",
        help="so many seconds without a frame end an episode; 0: never (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--stamps", choices=STAMP_SOURCES, default="header",
        help="when a message was: by its header, or when it was recorded (default: header)",
    )  # fmt: skip


def add_split(group: argparse._ArgumentGroup) -> None:
    """Declare which frames make the memory and which ask."""
    group.add_argument(
        "--query-fraction", type=float, default=0.5, metavar="SHARE",
        help="of the episodes, which ask; the others make the memory (default: 0.5)",
    )  # fmt: skip
    group.add_argument(
        "--absent-fraction", type=float, default=0.0,
        help="of episodes whose instruction no other has, asked as absent",
    )  # fmt: skip
    group.add_argument(
        "--gallery-bag", action="append", default=[], metavar="NAME",
        help="bag whose episodes all make the memory; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "--query-bag", action="append", default=[], metavar="NAME",
        help="bag whose episodes all ask; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "--every-sec", type=float, default=0.0, metavar="SEC",
        help="at most one frame of a camera in so many seconds; 0: all (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--exclude-within-sec", type=float, default=0.0, metavar="SEC",
        help="leave out frames that ask so soon before or after one in the memory (default: 0)",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate compare",
        description="Compare results with the first of them, instruction by instruction, by paired"
        " randomisation tests.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="that `evaluate` wrote; two or more")
    parser.add_argument("--metrics", nargs="+", default=["ndcg@10", "hit@1", "recall@10"])
    parser.add_argument(
        "--fail-if-worse", action="append", default=[], metavar="METRIC:TOLERANCE",
        help="exit with 1 if a direction is worse by more, and surely so; for example ndcg@10:0.01",
    )  # fmt: skip
    parser.add_argument(
        "--common", action="store_true",
        help="where some have queries that others have not, as live evaluations do in which frames"
        " were dropped, compare those that all have; that says nothing about the dropped ones",
    )  # fmt: skip
    parser.add_argument("--page", type=Path, help="also write one HTML file")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    main()
