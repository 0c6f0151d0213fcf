"""``replay_evaluation``: retrieval metrics of a running node, from rosbags played into it."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vla_retrieval.cli import evaluation_arguments as arguments
from vla_retrieval.cli.output import print_error, progress_bars
from vla_retrieval.encoders import load_encoder
from vla_retrieval.errors import RetrievalError
from vla_retrieval.evaluation.report.json_file import to_json
from vla_retrieval.evaluation.report.terminal import print_evaluation
from vla_retrieval.experiments.folder import write_folder
from vla_retrieval.publishing import check_absent

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    from vla_retrieval.ros.client import without_ros_arguments

    args = _parser().parse_args(without_ros_arguments(sys.argv[1:] if argv is None else argv))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        code = _replay(args, stop)
    except (RetrievalError, TimeoutError) as error:
        print_error("replay_evaluation", error, as_json=args.json)
        code = 130 if stop.is_set() else 1
    sys.exit(code)


def _replay(args: argparse.Namespace, stop: threading.Event) -> int:
    # Here, so that the help comes without ROS too.
    from vla_retrieval.ros.replay import Offline, ReplayOptions, replay_bags

    check_absent(args.out)
    settings = arguments.settings_of(args)
    options = ReplayOptions(
        namespace=args.namespace, rate=args.rate, longest_gap_sec=args.longest_gap_sec,
        follow_up=not args.published_only, start_within_sec=args.start_within_sec,
    )  # fmt: skip
    offline = None
    if not args.no_offline:
        work = args.work or args.out.with_name(f"{args.out.name}.work")
        offline = Offline(load_encoder(arguments.encoder_of(args)), work)
    with progress_bars() as progress:
        outcome = replay_bags(args.bags, settings, options, offline, progress, stop)
    write_folder(outcome, args.out, args.title)
    if args.json:
        print(to_json(outcome.evaluation))  # NaN has no place in plain JSON
        return 0
    console = Console()
    print_evaluation(outcome.evaluation, console)
    console.print(f"report: {args.out / 'index.html'}", highlight=False, markup=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="replay_evaluation",
        description="Evaluate a running node with rosbags: it remembers some episodes, the others"
        " are played into it in real time, and its answers are scored as `evaluate` scores them."
        " Topics are remapped as for any node, after --ros-args.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders or files")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the report")
    parser.add_argument("--title", default="Retrieval evaluation of a running node")
    parser.add_argument("--json", action="store_true", help="the result on stdout, as JSON")
    live = parser.add_argument_group("replay")
    live.add_argument("--namespace", default="", help="of the node")
    live.add_argument("--rate", type=float, default=1.0, help="speed, 1 is the bags' own")
    live.add_argument(
        "--longest-gap-sec", type=float, default=1.0, help="between two frames, at speed 1 (1)"
    )
    live.add_argument(
        "--published-only", action="store_true",
        help="do not ask about each answered frame in the other directions too",
    )  # fmt: skip
    live.add_argument("--start-within-sec", type=float, default=120.0, help="for the node (120)")
    compared = parser.add_argument_group(
        "offline evaluation of the same bags, to compare rankings with; its model is the node's"
    )
    compared.add_argument("--no-offline", action="store_true", help="do without")
    compared.add_argument("--work", type=Path, help="folder that keeps its work (OUT.work)")
    arguments.add_model(compared)
    arguments.add_reading(parser.add_argument_group("reading"))
    arguments.add_split(parser.add_argument_group("memory and queries"))
    arguments.add_scoring(parser.add_argument_group("scoring"), with_similarity=False)
    return parser


if __name__ == "__main__":
    main()
