"""Compares finished evaluations, direction by direction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table as DrawnTable

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.comparing import Comparison, compare, correct_together
from vla_retrieval.evaluation.gates import Table, parse_gate, tabulate
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.query_ids import make_query_ids
from vla_retrieval.evaluation.report.comparison_page import write_comparison_page
from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.evaluation.report.terminal import comparison_table
from vla_retrieval.evaluation.report.writing import JSON
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.folder import read_instructions, read_trec
from vla_retrieval.experiments.searching import DIRECTIONS

_SAME = "Evaluate the same bags with the same split and relevance."
_LIVE = (
    " Live evaluations answer every frame at --rate 0; --common compares the frames that all"
    " of them answered."
)


def compare_folders(
    folders: Sequence[Path],
    metrics: Sequence[str],
    gates: Sequence[str],
    page: Path | None,
    common: bool = False,
) -> tuple[dict[str, tuple[Table, DrawnTable]], int]:
    """Compare evaluations of the same bags with the first of them.

    Means over instructions are compared, and instructions are what is resampled and flipped: frames
    of one episode succeed or fail together, and taken one by one would fail gates by chance.
    Folders that an older release wrote do not say what the instructions were, and are compared
    query by query. P values are corrected over all directions, because a gate holds in each.

    Args:
        folders: Two or more that ``write_folder`` wrote.
        metrics: To be compared; those of the gates are added.
        gates: As ``gates.parse_gate`` reads them; each holds in every direction.
        page: Where to write one HTML file, or None.
        common: Whether to compare the queries that all of them have, where some have others too:
            live evaluations, in which frames were dropped.

    Returns:
        For each direction its table, plain and drawn; and the exit code.

    Raises:
        InvalidInputError: If the folders are not such, or were asked different things.
    """
    if len(folders) < 2:
        raise InvalidInputError("folders", "two or more", str(len(folders)))
    for folder in folders:
        if not folder.is_dir():
            raise InvalidInputError(
                "folders", "folders that `evaluate --out` wrote", f"{folder}, which is none"
            )
    parsed = [parse_gate(text) for text in gates]
    wanted = list(dict.fromkeys([*metrics, *(gate.metric for gate in parsed)]))
    names = make_query_ids(str(folder.resolve().name) for folder in folders)
    comparisons = correct_together(
        {direction: _compare(folders, names, direction, wanted, common) for direction in DIRECTIONS}
    )
    found = {
        direction: (tabulate(comparison, parsed), comparison_table(comparison, direction))
        for direction, comparison in comparisons.items()
    }
    if page is not None:
        evaluations = {
            name: read_json(folder / JSON) for name, folder in zip(names, folders, strict=True)
        }
        write_comparison_page(comparisons, page, evaluations)
    return found, max(table.exit_code for table, _ in found.values())


def _compare(
    folders: Sequence[Path],
    names: Sequence[str],
    direction: str,
    metrics: Sequence[str],
    common: bool,
) -> Comparison:
    found = [read_trec(folder, direction) for folder in folders]
    if common:
        found = _in_common(found, direction)
    baseline, _ = found[0]
    if not baseline.entry_ids.size:
        raise InvalidInputError(
            "folders", "a query with a relevant entry in each direction",
            f"{len(baseline.query_ids)} queries without one in {folders[0]} ({direction})",
            "Evaluate with a relevance that has one.",
        )  # fmt: skip
    for folder, (qrels, _) in zip(folders, found, strict=True):
        if qrels.query_ids != baseline.query_ids or not all(
            np.array_equal(getattr(qrels, name), getattr(baseline, name))
            for name in ("entry_ids", "offsets", "grades")
        ):
            raise InvalidInputError(
                "folders", f"the same queries and relevance as {folders[0]}",
                f"others in {folder} ({direction})",
                _SAME if common else _SAME + _LIVE,
            )  # fmt: skip
    runs = {name: run for name, (_, run) in zip(names, found, strict=True)}
    of = read_instructions(folders[0], direction)
    if of is None:  # of an older release
        return compare(baseline, runs, metrics)
    if missing := [query_id for query_id in baseline.query_ids if query_id not in of]:
        raise InvalidInputError(
            "folders", f"the instruction of each query in {folders[0]} ({direction})",
            f"none of {missing[0]!r} and {len(missing) - 1} others", "Evaluate the bags again.",
        )  # fmt: skip
    return compare(baseline, runs, metrics, instructions=[of[q] for q in baseline.query_ids])


def _in_common(found: Sequence[tuple[Qrels, Run]], direction: str) -> list[tuple[Qrels, Run]]:
    """Return the qrels of what is in all of them, in the order of the first, and the runs whole.

    So the comparison tells how many queries of each run it has left out.
    """
    in_all = set.intersection(*(set(qrels.query_ids) for qrels, _ in found))
    query_ids = [query_id for query_id in found[0][0].query_ids if query_id in in_all]
    if not query_ids:
        raise InvalidInputError(
            "folders", "queries that all of them have", f"none ({direction})",
            "Evaluate the same bags with the same split.",
        )  # fmt: skip
    return [(qrels.only(query_ids), run) for qrels, run in found]
