"""``train``: learns a head from a memory or from bags, and says what it is worth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vla_retrieval.cli.evaluate import add_model, add_reading, encoder_settings, reading_of
from vla_retrieval.cli.memory_calibrate import read_groups
from vla_retrieval.cli.output import as_option, print_error, print_json, progress_bars
from vla_retrieval.encoders import load_encoder
from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.relevance import read_labels
from vla_retrieval.evaluation.report.libraries import library
from vla_retrieval.experiments.embedding import embedded_bags
from vla_retrieval.heads import METHODS, save_head
from vla_retrieval.memory import Memory
from vla_retrieval.publishing import check_place
from vla_retrieval.training import LabelRule, Pairs, Trained, TrainingSettings, train
from vla_retrieval.training.data import from_memory
from vla_retrieval.training.page import told_of_proposing, write_page

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted"

_ONLY_WITH = {"bits": "hash", "temperature": "joint"}
"""Option to the method that has it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        _refuse_what_counts_for_nothing(args, parser)
        settings = _settings(args)
    except InvalidInputError as error:
        parser.error(as_option(error, parser.format_usage()))
    try:
        _train(args, settings)
        code = 0
    except RetrievalError as error:
        print_error("train", error, as_json=args.json, usage=parser.format_usage())
        code = 1
    except KeyboardInterrupt:
        # What is there was written by this call: an existing output is refused at the start.
        written = "the head is written" if args.output.exists() else "no head is written"
        print(f"train: interrupted; {written}.", file=sys.stderr)
        code = 130
    sys.exit(code)


def _settings(args: argparse.Namespace) -> TrainingSettings:
    return TrainingSettings(
        args.method, args.bits, args.seed, args.epochs, args.patience, args.batch,
        args.learning_rate, args.weight_decay, args.temperature, args.device,
    )  # fmt: skip


def _refuse_what_counts_for_nothing(
    args: argparse.Namespace, parser: argparse.ArgumentParser
) -> None:
    """Refuse options that another one leaves without meaning, rather than ignore them.

    Raises:
        InvalidInputError: If one was given another value than its default.
    """
    if args.bag and args.label_key:
        raise InvalidInputError(
            "label_key", "none with --bag, whose frames have no metadata", repr(args.label_key),
            "Give --labels, or --memory instead.",
        )  # fmt: skip
    only = {name: f"--method {of}" for name, of in _ONLY_WITH.items() if args.method != of}
    if args.memory is not None:
        only |= dict.fromkeys(_bag_options(), "--bag; the embeddings of --memory are there already")
    for name, of in only.items():
        value = getattr(args, name)
        if value != parser.get_default(name):
            raise InvalidInputError(name, f"none without {of}", str(value))


def _bag_options() -> list[str]:
    """Return the names of what says how bags are read and embedded."""
    parser = argparse.ArgumentParser()
    add_model(parser.add_argument_group())
    _add_bag_reading(parser.add_argument_group())
    return [name for name in vars(parser.parse_args([])) if name != "device"]


def _train(args: argparse.Namespace, settings: TrainingSettings) -> None:
    check_place(args.output)
    page = None if args.no_page else _page_of(args.output)
    if args.output.suffix != ".safetensors":
        expected = "a name that ends in .safetensors"
        raise InvalidInputError("output", expected, args.output.name)
    rule = LabelRule(
        read_labels(args.labels) if args.labels else None,
        read_groups(args.same) if args.same else (),
        args.label_key,
    )
    pairs = _pairs(args, rule)
    with _training_bar() as told:
        trained = train(pairs, settings, told, rule.description)
    save_head(trained.head, args.output, trained.record)
    if page is not None:
        write_page(trained, page)
    if args.json:
        print_json({**_about(trained), "output": args.output, "page": page, **trained.record})
    else:
        _print(trained, args.output, page)


def _page_of(output: Path) -> Path:
    """Return where the page goes; refuse before any work what could not be written."""
    page = output.with_suffix(".html")
    if page == output:
        raise InvalidInputError(
            "output", "a file that is not called as its page, *.safetensors", str(page),
            "Give another name, or --no-page.",
        )  # fmt: skip
    check_place(page)
    library("matplotlib")
    library("jinja2")
    return page


def _pairs(args: argparse.Namespace, rule: LabelRule) -> Pairs:
    if args.memory is not None:
        with Memory.open(args.memory, None, read_only=True) as memory, progress_bars() as progress:
            return from_memory(memory, rule, progress)
    encoder = load_encoder(encoder_settings(args))
    work = args.work or args.output.with_name(f"{args.output.name}.work")
    with (
        progress_bars() as progress,
        embedded_bags(
            args.bag, encoder, reading_of(args), args.every_sec, work, progress
        ) as memory,
    ):
        return from_memory(memory, rule, progress)


@contextmanager
def _training_bar() -> Iterator[Callable[[int, int, float], None]]:
    """Lend a function that draws a bar with the validation metric, where stderr is a terminal."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("validation {task.fields[now]:.4f}, best {task.fields[best]:.4f}"),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    task = bars.add_task("training", total=None, now=0.0, best=0.0)
    best = 0.0

    def told(epoch: int, epochs: int, validation: float) -> None:
        nonlocal best
        best = max(best, validation)
        bars.update(task, completed=epoch, total=epochs, now=validation, best=best)

    with bars:
        yield told


def _about(trained: Trained) -> dict[str, Any]:
    head = trained.head
    return {
        "method": head.method, "digest": head.digest, "encoder": str(head.encoder),
        "dim": head.dim, "bits": head.bits,
    }  # fmt: skip


def _print(trained: Trained, output: Path, page: Path | None) -> None:
    record, console = trained.record, Console(highlight=False)
    table = Table(title_justify="left", box=None, pad_edge=False)
    for name in ("side", "direction", "metric"):
        table.add_column(name, no_wrap=name == "metric")
    for name in ("before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    for side, metrics in record["metrics"].items():
        for direction, before in metrics["before"].items():
            for metric, value in before.items():
                after = metrics["after"][direction][metric]
                table.add_row(side, direction, metric, _interval(value), _interval(after))
    curves, sides = record["curves"], record["data"]["sides"]
    console.print(
        f"{trained.head.method} head on {sides['train']['pairs']} pairs of"
        f" {sides['train']['episodes']} episodes; {sides['test']['episodes']} episodes held out;"
        f" began with {record['start']}, best after epoch {curves['best_epoch']}"
        f" (share {curves['share']:g}), {record['seconds']:.1f} s"
    )
    if record["untrained"]:
        console.print(
            "random hyperplanes validated better than what was learned: the codes are theirs"
            if trained.head.bits
            else "nothing was surely better than the encoder alone: the head changes nothing"
        )
    console.print(table)
    if "proposing" in record:
        console.print(told_of_proposing(record["proposing"]["test"]))
    console.print("means over queries with 95% intervals; each asks the other episodes of its side")
    console.print(f"head: {output} {trained.head.digest[:19]}", markup=False)
    if page is not None:
        console.print(f"page: {page}", markup=False)


def _interval(of: dict[str, float]) -> str:
    return f"{of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train",
        description="Learn a head from a robot's own pairs: a common space for both modalities"
        " (joint),\na metric, or binary codes (hash).",
        epilog="example: train --method metric --bag BAG --labels TASKS.yaml --output"
        f" head.safetensors\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--method", choices=list(METHODS), required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--memory", type=Path, help="directory of a memory; it is only read")
    source.add_argument("--bag", type=Path, nargs="+", help="rosbag2 folders or files")
    parser.add_argument("--output", type=Path, required=True, help="new file, *.safetensors")
    parser.add_argument("--no-page", action="store_true", help="write no OUTPUT.html beside it")
    parser.add_argument("--json", action="store_true", help="the record on stdout, as JSON")
    labels = parser.add_argument_group(
        "labels", "What makes two pairs one task; without any of these, the same instruction does."
    ).add_mutually_exclusive_group()
    labels.add_argument("--labels", type=Path, help="YAML or JSON of label and instructions")
    labels.add_argument(
        "--same", type=Path, help="CSV, each row paraphrases and translations; or YAML"
    )
    labels.add_argument("--label-key", default="", help="a metadata key of entries (of --memory)")
    _add_training(parser.add_argument_group("training"))
    add_model(parser.add_argument_group("model (of --bag) and device"))
    _add_bag_reading(parser.add_argument_group("reading (of --bag)"))
    return parser


def _add_bag_reading(group: argparse._ArgumentGroup) -> None:
    add_reading(group)
    group.add_argument(
        "--every-sec", type=float, default=0.0, metavar="SEC",
        help="at most one frame of a camera in so many seconds; 0: all (default: 0)",
    )  # fmt: skip
    group.add_argument("--work", type=Path, help="folder of what was embedded (OUTPUT.work)")


def _add_training(group: argparse._ArgumentGroup) -> None:
    defaults = TrainingSettings("joint")
    for name, kind, text in (
        ("bits", int, "of a code (of hash)"),
        ("seed", int, "of split and batches"),
        ("epochs", int, "at most"),
        ("patience", int, "epochs without a better one"),
        ("batch", int, "pairs at a time"),
        ("weight-decay", float, "towards the start"),
        ("temperature", float, "of the loss of joint"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        group.add_argument(
            f"--{name}", type=kind, default=default, help=f"{text} (default: {default:g})"
        )
    group.add_argument("--learning-rate", type=float, help="(default: that of the method)")


if __name__ == "__main__":
    main()
