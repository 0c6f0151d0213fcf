"""``memory``: looks at, checks, compacts, calibrates, exports, imports, re-embeds a memory."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from vla_retrieval.calibration import DEFAULT_ALPHA, fewest_episodes
from vla_retrieval.cli import memory_calibrate
from vla_retrieval.cli import memory_commands as commands
from vla_retrieval.cli.output import print_error
from vla_retrieval.encoders import EncoderSettings
from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.self_calibration import DEFAULT_QUERIES
from vla_retrieval.types import Similarity

_EXIT_CODES = """\
exit codes:
  0    done, and nothing is wrong
  1    something is wrong with the memory, or it could not be done; stderr says what
  2    the command line is wrong
  130  stopped by Ctrl-C or SIGTERM; what was begun is undone, or said
"""

_OF_THE_NODE = "as the node's parameter, so that the snapshot is of use to it (default: none)"


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "check" and args.yes and not args.drop_damaged:
        parser.error("--yes goes with --drop-damaged")
    if args.command == "reembed":
        try:
            args.settings = EncoderSettings(
                model=args.model, pretrained=args.pretrained, checkpoint=args.checkpoint,
                device=args.device, engine=args.engine, precision=args.precision,
            )  # fmt: skip
        except InvalidInputError as error:
            parser.error(str(error))
    signal.signal(signal.SIGTERM, _stop)
    try:
        code: int = args.run(args)
    except RetrievalError as error:
        print_error(f"memory {args.command}", error, as_json=args.json)
        return 1
    except KeyboardInterrupt:
        print(f"memory {args.command}: stopped", file=sys.stderr)
        return 130
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memory", description=(__doc__ or "").replace("``", ""), epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    several = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: commands.Command, text: str) -> argparse.ArgumentParser:
        command = several.add_parser(
            name, help=text, description=text, epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_argument("directory", type=Path, metavar="DIR", help="of the memory")
        command.add_argument("--json", action="store_true", help="print JSON on stdout")
        command.set_defaults(run=run)
        return command

    add("info", commands.info, "say what a memory holds, without changing it")
    check = add("check", commands.check, "name everything in a memory that is damaged")
    check.add_argument(
        "--drop-damaged", action="store_true", help="list what is damaged and remove just that"
    )
    check.add_argument("--yes", action="store_true", help="really remove it")
    compact = add(
        "compact", commands.compact, "free the disk space of removed entries, write a snapshot"
    )
    compact.add_argument("--head", type=Path, help=_OF_THE_NODE)
    _add_calibrate_arguments(
        add("calibrate", memory_calibrate.calibrate, "fit what a score means, so that the node"
            " can answer that nothing like a query is known")
    )  # fmt: skip
    export = add("export", commands.export, "write all entries into a file or a folder")
    export.add_argument("out", type=Path, metavar="OUT", help="file or folder that does not exist")
    export.add_argument(
        "--format", choices=["parquet", "directory"], required=True,
        help="parquet: one file for machines; directory: a folder and a page to look at",
    )  # fmt: skip
    export.add_argument("--head", type=Path, help="a head of method hash: write its codes as well")
    import_ = add("import", commands.import_, "store all entries of an export, under new ids")
    import_.add_argument("source", type=Path, metavar="SOURCE", help="what export wrote")
    import_.add_argument(
        "--ids", type=Path, metavar="FILE", help="write old and new ids there, as CSV"
    )
    import_.add_argument("--head", type=Path, help=_OF_THE_NODE)
    _add_reembed_arguments(
        add("reembed", commands.reembed, "make a new memory with another encoder; ids stay")
    )
    return parser


def _add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--alpha", type=_number(fewest_episodes), default=DEFAULT_ALPHA,
        help="share of answerable queries that may be called unknown (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--scene-weight",
        type=_number(_check_share),
        default=0.5,
        help="of the queries that the node gets (default: %(default)s)",
    )
    parser.add_argument(
        "--queries",
        type=_count,
        default=DEFAULT_QUERIES,
        help="most entries to ask with (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="that chooses them")
    parser.add_argument(
        "--same", type=Path, metavar="FILE",
        help="CSV without a header: instructions in one row mean the same, as translations do; "
        "or YAML: those of one label",
    )  # fmt: skip
    parser.add_argument(
        "--similarity",
        choices=[similarity.value for similarity in Similarity],
        help="as the node's parameter (default: the one it was last searched with)",
    )
    parser.add_argument("--head", type=Path, help=_OF_THE_NODE)


def _number(check: Callable[[float], object]) -> Callable[[str], float]:
    """Return what reads a number from the command line and lets the library check it."""

    def number(text: str) -> float:
        value = float(text)
        try:
            check(value)
        except InvalidInputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return value

    return number


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return value


def _check_share(value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InvalidInputError("scene_weight", "a number in [0, 1]", str(value))


def _add_reembed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="directory that does not exist")
    parser.add_argument("--model", required=True, help="as the node's parameter model")
    parser.add_argument("--pretrained", default="", help="open_clip tag of its weights")
    parser.add_argument("--checkpoint", default="", help="file of its weights")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--engine", default="auto", help="auto, torch, openvino or onnxruntime")
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16, bf16 or int8")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER",
        help="source images, <entry_id>.jpg or .png, better than thumbnails",
    )  # fmt: skip
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave out entries without a picture"
    )


if __name__ == "__main__":
    sys.exit(main())
