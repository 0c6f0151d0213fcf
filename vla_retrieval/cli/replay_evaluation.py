"""``replay_evaluation``: plays rosbags to a running node, and scores what it answers."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vla_retrieval.cli.evaluate import (
    add_head,
    add_model,
    add_reading,
    add_scoring,
    add_split,
    encoder_settings,
    experiment_settings,
    head_of,
    reading_of,
)
from vla_retrieval.cli.output import print_error, progress_bars
from vla_retrieval.encoders import load_encoder
from vla_retrieval.errors import RetrievalError
from vla_retrieval.evaluation.recordings import image_type
from vla_retrieval.evaluation.report.json_file import to_json
from vla_retrieval.evaluation.report.terminal import print_evaluation
from vla_retrieval.evaluation.topics import COMPRESSED_IMAGE
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.experiments.folder import check_folder, write_folder
from vla_retrieval.experiments.live import compare
from vla_retrieval.experiments.offline import evaluate_bags
from vla_retrieval.ros_arguments import split_ros_arguments

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours, _ = split_ros_arguments(given)  # launch adds them
    parser = _parser()
    args = parser.parse_args(ours)
    if args.out is None and not args.show_image_transport:
        parser.error("the following arguments are required: --out")
    try:
        code = _show_transport(args) if args.show_image_transport else _replay(args)
    except (RetrievalError, TimeoutError) as error:
        usage = parser.format_usage()
        print_error("replay_evaluation", error, as_json=args.json, usage=usage)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _show_transport(args: argparse.Namespace) -> int:
    """Print what a node has to be told to read the bags' images as they are."""
    kind = image_type(args.bags, reading_of(args))
    print("compressed" if kind == COMPRESSED_IMAGE else "raw")
    return 0


def _replay(args: argparse.Namespace) -> int:
    # Only here: the help is to be had without ROS.
    from vla_retrieval.ros.playing import ReplayOptions
    from vla_retrieval.ros.replay_evaluation import evaluate_node

    # `ros2 launch` and others end processes by it: the node's parameters and a player are then put
    # in order as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_folder(args.out)
    settings = experiment_settings(args)
    options = ReplayOptions(args.rate, args.most_gap_sec, args.answer_sec, args.player)
    encoder = load_encoder(encoder_settings(args))
    head = head_of(args, encoder)
    with progress_bars() as progress:
        live = evaluate_node(
            args.bags, args.namespace, encoder.fingerprint, settings, options, args.start_sec,
            progress, head,
        )  # fmt: skip
        if not args.no_offline:
            work = args.work or args.out.with_name(f"{args.out.name}.work")
            try:
                offline = evaluate_bags(args.bags, encoder, settings, work, progress, head)
            except BaseException:
                # What was played for hours is not lost for want of what it is compared with.
                write_folder(live, args.out, args.title)
                print(
                    f"replay_evaluation: what the node answered is in {args.out}; the offline"
                    " evaluation beside it is missing.", file=sys.stderr,
                )  # fmt: skip
                raise
            live = _beside(live, offline)
    write_folder(live, args.out, args.title)
    if args.json:
        print(to_json(live.evaluation))
        return 0
    console = Console()
    print_evaluation(live.evaluation, console)
    console.print(f"report: {args.out / 'index.html'}", highlight=False, markup=False)
    return 0


def _beside(live: Outcome, offline: Outcome) -> Outcome:
    """Return the live outcome with what the offline one adds: the agreement and the map."""
    said = live.evaluation.live
    evaluation = replace(
        live.evaluation,
        live=said and replace(said, agreement=compare(live, offline)),
        embedding_map=offline.evaluation.embedding_map,
    )
    return replace(live, evaluation=evaluation)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay_evaluation",
        description="Evaluate a running node: some episodes of the bags fill its empty memory, the"
        " others are played to it as by a camera. Metrics as `evaluate` has them, and latency,"
        " age of frames and drops. `replay_evaluation.launch.py` starts the node too.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders or files")
    parser.add_argument("--out", type=Path, help="new folder for the report")
    parser.add_argument("--title", default="Live retrieval evaluation", help="of the page")
    parser.add_argument("--json", action="store_true", help="the result on stdout, as JSON")
    playing = parser.add_argument_group("playing")
    playing.add_argument("--namespace", default="", help="of the node")
    playing.add_argument(
        "--player", choices=("auto", "ros2bag", "own"), default="auto",
        help="who plays: `ros2 bag play`, the package's own player, or the first where it is"
        " installed and can play these bags, else the second (auto)",
    )  # fmt: skip
    playing.add_argument(
        "--rate", type=float, default=1.0,
        help="speed against the bag's own time; 0: each frame when the last one is answered (1)",
    )  # fmt: skip
    playing.add_argument(
        "--most-gap-sec", type=float, default=1.0,
        help="longest pause between two frames, with the package's own player (1)",
    )  # fmt: skip
    playing.add_argument(
        "--answer-sec", type=float, default=10.0, help="longest wait for the last answers (10)"
    )
    playing.add_argument(
        "--start-sec",
        type=float,
        default=120.0,
        help="longest wait for an active node (120)",
    )
    playing.add_argument(
        "--no-offline", action="store_true",
        help="do not evaluate the bags offline too, to say how far the rankings agree",
    )  # fmt: skip
    playing.add_argument(
        "--show-image-transport", action="store_true",
        help="only print the image_transport that the node needs for these bags: raw or compressed",
    )  # fmt: skip
    playing.add_argument(
        "--work", type=Path, help="folder of the offline evaluation's embeddings (OUT.work)"
    )
    model = parser.add_argument_group("model, the same as the node's")
    add_model(model)
    add_head(model)
    add_reading(parser.add_argument_group("reading"))
    add_split(parser.add_argument_group("memory and queries"))
    add_scoring(parser.add_argument_group("scoring"))
    return parser


if __name__ == "__main__":
    main()
