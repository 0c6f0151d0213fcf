"""``evaluate``: retrieval metrics from rosbags, with a report; and comparisons of such reports."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vla_retrieval.cli import evaluation_arguments as arguments
from vla_retrieval.cli.output import print_error, print_json, progress_bars
from vla_retrieval.encoders import load_encoder
from vla_retrieval.errors import RetrievalError
from vla_retrieval.evaluation.report.json_file import to_json
from vla_retrieval.evaluation.report.terminal import print_evaluation
from vla_retrieval.experiments.comparing import compare_folders
from vla_retrieval.experiments.folder import write_folder
from vla_retrieval.experiments.offline import evaluate_bags
from vla_retrieval.publishing import check_absent

_EXIT_CODES = "exit codes: 0 done, 1 failed or a gate did, 2 wrong usage, 130 interrupted"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    given = list(sys.argv[1:] if argv is None else argv)
    comparing = given[:1] == ["compare"]
    args = (_compare_parser() if comparing else _parser()).parse_args(given[int(comparing) :])
    try:
        code = _compare(args) if comparing else _evaluate(args)
    except RetrievalError as error:
        print_error("evaluate", error, as_json=args.json)
        code = 1
    except KeyboardInterrupt:
        print("evaluate: interrupted; the same call goes on from here.", file=sys.stderr)
        code = 130
    sys.exit(code)


def _evaluate(args: argparse.Namespace) -> int:
    check_absent(args.out)
    settings = arguments.settings_of(args)
    work = args.work or args.out.with_name(f"{args.out.name}.work")
    encoder = load_encoder(arguments.encoder_of(args))
    with progress_bars() as progress:
        outcome = evaluate_bags(args.bags, encoder, settings, work, progress)
        started = time.perf_counter()
        progress("writing the report", 0, 1)
        write_folder(outcome, args.out, args.title)
        progress("writing the report", 1, 1)
        writing_sec = time.perf_counter() - started
    evaluation = outcome.evaluation
    if args.json:
        print(to_json(evaluation))  # NaN has no place in plain JSON
        return 0
    console = Console()
    print_evaluation(evaluation, console)
    console.print(
        f"report: {args.out / 'index.html'}, written in {writing_sec:.1f} s",
        highlight=False, markup=False,
    )  # fmt: skip
    return 0


def _compare(args: argparse.Namespace) -> int:
    tables, code = compare_folders(args.folders, args.metrics, args.fail_if_worse, args.page)
    if args.json:
        print_json({name: table for name, (table, _) in tables.items()})
    else:
        console = Console()
        for name, (_, drawn) in tables.items():
            console.print(drawn)
            console.print(f"{name}", style="dim", highlight=False)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description="Evaluate retrieval on rosbags: some episodes make the memory, others ask it."
        " `evaluate compare A B` compares two results.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders or files")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the report")
    parser.add_argument("--work", type=Path, help="folder that lets a broken run go on (OUT.work)")
    parser.add_argument("--title", default="Retrieval evaluation")
    parser.add_argument("--json", action="store_true", help="the result on stdout, as JSON")
    arguments.add_model(parser.add_argument_group("model"))
    arguments.add_reading(parser.add_argument_group("reading"))
    arguments.add_split(parser.add_argument_group("memory and queries"))
    arguments.add_scoring(parser.add_argument_group("scoring"), with_similarity=True)
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate compare",
        description="Compare results with the first of them, by paired randomisation tests.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="that `evaluate` wrote; two or more")
    parser.add_argument("--metrics", nargs="+", default=["ndcg@10", "hit@1", "recall@10"])
    parser.add_argument(
        "--fail-if-worse", action="append", default=[], metavar="METRIC:TOLERANCE",
        help="exit with 1 if a direction is worse by more, and surely so; for example ndcg@10:0.01",
    )  # fmt: skip
    parser.add_argument("--page", type=Path, help="also write one HTML file")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    main()
