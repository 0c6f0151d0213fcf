"""``memory calibrate``: fits what a score means, prints how well that works, and stores it."""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vla_retrieval.cli.memory_commands import open_to_write
from vla_retrieval.cli.output import print_json, progress_bars
from vla_retrieval.errors import StorageError
from vla_retrieval.evaluation.relevance import read_labels
from vla_retrieval.evaluation.results import Estimate
from vla_retrieval.heads import load_head
from vla_retrieval.projection import short_digest
from vla_retrieval.self_calibration import SelfCalibration
from vla_retrieval.self_calibration import calibrate as calibrated
from vla_retrieval.types import Similarity


def calibrate(args: Namespace) -> int:
    """Calibrate a memory with its own entries."""
    same = read_groups(args.same) if args.same else []
    wanted = Similarity(args.similarity) if args.similarity else None
    head = None if args.head is None else load_head(args.head)
    with (
        open_to_write(args.directory, wanted=wanted, head=head) as memory,
        progress_bars() as progress,
    ):
        found = calibrated(
            memory, alpha=args.alpha, scene_weight=args.scene_weight, queries=args.queries,
            seed=args.seed, same=same, progress=progress,
        )  # fmt: skip
        memory.set_calibration(found.calibration.to_json())
    if args.json:
        print_json(_plain(found))
    else:
        _print(found)
    return 0


def read_groups(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file without empty cells, or of YAML the instructions by label.

    Raises:
        InvalidInputError: If YAML holds anything but labels.
        StorageError: If it cannot be read, or is no text.
    """
    if path.suffix in (".yaml", ".yml"):
        by_label: dict[str, list[str]] = {}
        for instruction, label in read_labels(path).items():
            by_label.setdefault(label, []).append(instruction)
        return list(by_label.values())
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell for cell in row if cell.strip()] for row in csv.reader(file)]
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error}. Check the path and the rights."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise StorageError(f"{path}: expected CSV in UTF-8, got {error}.") from error
    return [row for row in rows if row]


def _plain(found: SelfCalibration) -> dict[str, Any]:
    """Return all but the scores of single queries."""
    made = found.calibration
    return {
        "alpha": made.alpha,
        "similarity": made.similarity,
        "scene_weight": made.scene_weight,
        "fingerprint": made.fingerprint,
        "memory_size": made.memory_size,
        "episodes": found.episodes,
        "instructions": found.instructions,
        "queries": made.queries,
        "seed": made.seed,
        "date": made.date,
        "directions": {
            name: {
                "episodes": made.directions[name].episodes,
                "slope": made.directions[name].slope,
                "offset": made.directions[name].offset,
                "held_out": result,
            }
            for name, result in found.known.items()
        },
        "left_out": found.left_out,
    }


def _print(found: SelfCalibration) -> None:
    made = found.calibration
    table = Table(title_justify="left", box=None, pad_edge=False)
    for name in ("direction", "answerable", "absent", "known from", "called unknown wrongly",
                 "called known wrongly", "AUROC"):  # fmt: skip
        table.add_column(name, justify="left" if name == "direction" else "right")
    for name, result in found.known.items():
        table.add_row(
            name, str(result.answerable), str(result.absent), f"{result.threshold:.4f}",
            _share(result.false_rejects), _share(result.false_accepts), _share(result.auroc),
        )  # fmt: skip
    console = Console(width=120, highlight=False)
    console.print(
        f"{made.memory_size} entries of {found.episodes} episodes and {found.instructions}"
        f" instructions, asked with {made.queries} of them, each against the other episodes;"
        f" alpha {made.alpha:g}, {made.similarity.value}, scene weight {made.scene_weight:g}"
    )
    console.print(table)
    console.print("shares of queries whose instruction was held out, with 95% intervals")
    for name, why in found.left_out.items():
        console.print(f"not calibrated: {name}: {why}")
    with_head = f" with head {short_digest(made.fingerprint.head)}" if made.fingerprint.head else ""
    console.print(f"stored; the node uses it{with_head} from its next start on")


def _share(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
