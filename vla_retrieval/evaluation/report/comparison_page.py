"""One HTML file about runs that were compared, in the style of an evaluation's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_retrieval.evaluation.comparing import Comparison, Difference
from vla_retrieval.evaluation.report import view
from vla_retrieval.evaluation.report.page import render
from vla_retrieval.evaluation.results import Evaluation
from vla_retrieval.publishing import published

LEVEL = 0.05
"""A difference whose corrected p is below this is called one."""


@dataclass(frozen=True)
class Forest:
    """An interval around 0 on a scale from -50 to 50 that all rows of a table share."""

    low: float
    value: float
    high: float


def finding(difference: Difference) -> str:
    """Return ``better``, ``worse``, or ``same`` where the two cannot be told apart."""
    if not difference.p_corrected < LEVEL or not difference.difference.value:
        return "same"
    return "better" if difference.difference.value > 0 else "worse"


def render_comparison(
    comparisons: Mapping[str, Comparison],
    evaluations: Mapping[str, Evaluation] | None = None,
    title: str = "Comparison of evaluations",
) -> str:
    """Return the page of a comparison.

    Args:
        comparisons: Title, for example ``"scene to scenes"``, to what was found.
        evaluations: Name to evaluation, in the order of columns, to show their values side by side
            and which settings differ.
        title: Of the page.

    Returns:
        HTML without references to anything outside it; whatever a text holds is shown as text.

    Raises:
        MissingLibraryError: If Jinja2 is not installed.
    """
    shown = evaluations or {}
    sections = [(name, of, _rows(of.differences)) for name, of in comparisons.items()]
    by_query = all(of.units == of.queries for of in comparisons.values())
    return render(
        "comparison", title,
        {"comparisons": sections, "evaluations": shown, "level": LEVEL,
         "directions": _directions(shown, "micro" if by_query else "macro"),
         "unit": "query" if by_query else "instruction",
         "units": "queries" if by_query else "instructions", "differing": _differing(shown)},
    )  # fmt: skip


def write_comparison_page(
    comparisons: Mapping[str, Comparison],
    target: Path,
    evaluations: Mapping[str, Evaluation] | None = None,
    title: str = "Comparison of evaluations",
) -> None:
    """Write ``render_comparison`` to a new file, which appears when it is whole.

    Raises:
        InvalidInputError: If the file exists or its folder does not.
        MissingLibraryError: If Jinja2 is not installed.
        StorageError: If the disk refuses.
    """
    page = render_comparison(comparisons, evaluations, title)
    with published(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")


def _rows(differences: Sequence[Difference]) -> list[tuple[Difference, str, Forest | None]]:
    ends = [bound for row in differences for bound in (row.difference.low, row.difference.high)]
    widest = max((abs(end) for end in ends if math.isfinite(end)), default=0.0)
    return [(row, finding(row), _forest(row, widest)) for row in differences]


def _forest(row: Difference, widest: float) -> Forest | None:
    bounds = (row.difference.low, row.difference.value, row.difference.high)
    if not widest or not all(map(math.isfinite, bounds)):
        return None
    # 48 leaves room for half the mark at the end.
    return Forest(*(round(48 * bound / widest, 2) for bound in bounds))


def _directions(
    evaluations: Mapping[str, Evaluation], average: str
) -> list[tuple[str, Any, list[view.Column]]]:
    names = dict.fromkeys(name for one in evaluations.values() for name in one.directions)
    found = []
    for direction in names:
        columns = [
            (name, under, estimates)
            for name, one in evaluations.items()
            for of, under, estimates in view.columns_of(one, average)
            if of == direction
        ]
        found.append((direction, view.kinds_in(columns), columns))
    return found


def _differing(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, list[str]]]:
    """Returns the hash and each setting that is not the same everywhere, value by value."""
    all_settings = [{"hash": one.hash, **one.settings} for one in evaluations.values()]
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    rows = [(name, [settings.get(name, "–") for settings in all_settings]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]
