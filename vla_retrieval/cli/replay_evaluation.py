"""``replay_evaluation``: plays bags into the running node, and scores its answers like `evaluate`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vla_retrieval.cli.evaluation_arguments import (
    add_reading,
    add_result,
    add_scoring,
    add_split,
    settings_of,
)
from vla_retrieval.cli.output import print_error, progress_bars
from vla_retrieval.errors import RetrievalError
from vla_retrieval.evaluation.report.json_file import to_json
from vla_retrieval.evaluation.report.terminal import print_evaluation
from vla_retrieval.experiments.agreement import Agreement, agree_with_folder
from vla_retrieval.experiments.folder import write_folder
from vla_retrieval.publishing import check_absent

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    args = _parse(list(sys.argv[1:] if arguments is None else arguments))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        _evaluate(args, stop)
        code = 0
    except (RetrievalError, TimeoutError) as error:
        print_error("replay_evaluation", error, as_json=args.json)
        code = 130 if stop.is_set() else 1
    sys.exit(code)


def _evaluate(args: argparse.Namespace, stop: threading.Event) -> None:
    # rclpy takes a second to import, and without ROS --help shall work all the same.
    from vla_retrieval.ros.frame_player import GraphTopics
    from vla_retrieval.ros.replay import LiveSettings, evaluate_node

    check_absent(args.out)
    live = LiveSettings(
        args.rate,
        args.namespace,
        GraphTopics(args.to_image, args.to_instruction),
        args.start_within,
    )
    with progress_bars() as progress:
        outcome = evaluate_node(args.bags, settings_of(args), live, stop, progress)
    agreement = agree_with_folder(outcome, args.against) if args.against else {}
    write_folder(outcome, args.out, args.title)
    if args.json:
        print(to_json(outcome.evaluation))  # NaN has no place in plain JSON
        return
    console = Console()
    print_evaluation(outcome.evaluation, console)
    if agreement:
        console.print(_agreement_table(agreement, args.against))
    console.print(f"report: {args.out / 'index.html'}", highlight=False, markup=False)


def _agreement_table(found: Mapping[str, Agreement], against: Path) -> Table:
    table = Table(title=f"rankings against {against}", title_justify="left", box=None)
    table.add_column("direction")
    for head in ("answered by both", "same", "same but for ties", "largest score difference"):
        table.add_column(head, justify="right")
    for name, one in found.items():
        cells = str(one.both), str(one.identical), str(one.up_to_ties)
        table.add_row(name, *cells, f"{one.score_difference:.1e}")
    return table


def _parse(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="replay_evaluation",
        description="Evaluate the running node on rosbags: some episodes are remembered through its"
        " service, the others are played into its topics.",
        epilog=_EXIT_CODES,
    )
    add_result(parser)
    group = parser.add_argument_group("node")
    group.add_argument("--rate", type=float, default=1.0, help="speed of the bag (1)")
    group.add_argument("--namespace", default="", help="of the node")
    group.add_argument("--to-image", default="image", help="the node's base image topic")
    group.add_argument("--to-instruction", default="instruction", help="its instruction topic")
    group.add_argument(
        "--start-within", type=float, default=120.0, help="longest wait for the node, in s"
    )
    group.add_argument(
        "--against", type=Path, help="report of `evaluate`: say whether the rankings are the same"
    )
    add_reading(parser)
    add_split(parser)
    add_scoring(parser, depth=10)
    parser.set_defaults(similarity="cosine")  # the node's own is taken instead
    # Launch appends --ros-args and what belongs to it; nothing of it is meant for this process.
    end = given.index("--ros-args") if "--ros-args" in given else len(given)
    return parser.parse_args(given[:end])


if __name__ == "__main__":
    main()
