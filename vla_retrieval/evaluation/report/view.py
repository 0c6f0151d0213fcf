"""What a page shows of an evaluation: which part of it, and in which order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vla_retrieval.evaluation.report.naming import MetricKind, by_kind, kind_of, spell_count
from vla_retrieval.evaluation.report.pictures import data_uri, pictures_in
from vla_retrieval.evaluation.report.texts import readable
from vla_retrieval.evaluation.results import (
    DirectionResult,
    Estimate,
    Evaluation,
    Example,
    InstructionRow,
    MapPoint,
    Shown,
)


@dataclass(frozen=True)
class Limits:
    """How much a page shows.

    Attributes:
        examples: In each list.
        matches: Of each example.
        instructions: Rows of each direction.
        points: Of the map.
        picture_chars: Of all thumbnails together, as they stand in the page.
    """

    examples: int
    matches: int
    instructions: int
    points: int
    picture_chars: int


LIMITS = (
    Limits(6, 5, 200, 2000, 2_800_000),
    Limits(4, 5, 100, 1000, 1_400_000),
    Limits(2, 3, 30, 500, 400_000),
    Limits(0, 0, 0, 0, 0),
)
"""From what is wanted to what always fits."""


@dataclass(frozen=True)
class ExampleView:
    """An example with its pictures.

    Attributes:
        of: The example.
        picture: Address of the query's thumbnail, or ''.
        verdict: Where its first relevant entry is.
        matches: The first matches, each with the address of its thumbnail, or ''.
    """

    of: Example
    picture: str
    verdict: str
    matches: tuple[tuple[Shown, str], ...]


Column = tuple[str, str, Mapping[str, Estimate]]
"""Heading, the line under it, and metric name to mean."""
Gallery = tuple[str, str, list[tuple[str, list[ExampleView]]]]
"""Direction, what is asked, and titled lists of examples."""
InstructionTable = tuple[str, list[InstructionRow], int, list[str]]
"""Direction, rows to show, how many there are, and metrics to show."""


def kinds_in(columns: Iterable[Column]) -> list[tuple[MetricKind, list[str]]]:
    """Return the metrics that any column has, by kind, hit@K apart from Recall@K."""
    names = [name for _, _, estimates in columns for name in estimates]
    return [(kind_of(key), metrics) for key, metrics in by_kind(names).items()]


def columns_of(evaluation: Evaluation, average: str) -> list[Column]:
    """Return one column for each direction.

    Args:
        evaluation: With the directions.
        average: ``micro`` or ``macro``.
    """
    return [
        (name, _queries(result), result.macro if average == "macro" else result.micro)
        for name, result in evaluation.directions.items()
    ]


def _queries(result: DirectionResult) -> str:
    queries = f"{spell_count(result.queries)} quer{'y' if result.queries == 1 else 'ies'}"
    left_out = spell_count(result.without_relevant)
    return f"{queries}, {left_out} left out" if result.without_relevant else queries


def galleries(evaluation: Evaluation, limits: Limits) -> list[Gallery]:
    """Return the examples of each direction that has any."""
    lists = {
        name: [(title, _varied(examples)[: limits.examples]) for title, examples in _lists(result)]
        for name, result in evaluation.directions.items()
    }
    chosen = [replace(example, matches=example.matches[: limits.matches])
              for of in lists.values() for _, examples in of for example in examples]  # fmt: skip
    # Each gets the same share, so that the last ones are not without.
    share = limits.picture_chars // max(1, sum(map(pictures_in, chosen)))
    found = []
    for name, of in lists.items():
        shown = [(title, [_view(example, limits.matches, share) for example in examples])
                 for title, examples in of if examples]  # fmt: skip
        if shown:
            found.append((name, _asked(name), shown))
    return found


def _lists(result: DirectionResult) -> Sequence[tuple[str, Sequence[Example]]]:
    return (
        ("Wrong with the highest scores", result.confidently_wrong),
        ("Worst", result.worst),
        ("Best", result.best),
    )


def _varied(examples: Sequence[Example]) -> list[Example]:
    """Returns the first example of each instruction, then the second of each, and so on.

    Frames of one episode look alike, and fail alike: without this, a list is often one picture.
    """
    seen: Counter[str] = Counter()
    turns = []
    for example in examples:
        turns.append(seen[example.instruction])
        seen[example.instruction] += 1
    order = sorted(range(len(examples)), key=lambda place: turns[place])
    return [examples[place] for place in order]


def _asked(direction: str) -> str:
    what = {"scene": "this scene", "instruction": "this instruction", "pair": "both"}
    asked = what.get(direction.split(" ")[0])
    return f"Query: {asked}" if asked else "Query"


def _view(example: Example, most_matches: int, share: int) -> ExampleView:
    matches = tuple((shown, _uri(shown.thumbnail, share))
                    for shown in example.matches[:most_matches])  # fmt: skip
    return ExampleView(example, _uri(example.thumbnail, share), _verdict(example), matches)


def _uri(thumbnail: str, share: int) -> str:
    return data_uri(thumbnail, share) if thumbnail else ""


def _verdict(example: Example) -> str:
    if not example.reciprocal_rank > 0:
        return "Nothing relevant was retrieved."
    return f"First relevant at rank {round(1 / example.reciprocal_rank)}."


def instruction_tables(evaluation: Evaluation, limits: Limits) -> list[InstructionTable]:
    """Return the rows of each direction that has any: lowest MRR first, without queries last."""
    tables = []
    for name, result in evaluation.directions.items():
        rows = sorted(result.per_instruction, key=_difficulty)
        if rows:
            metrics = _shown_metrics(metric for row in rows for metric in row.metrics)
            tables.append((name, rows[: limits.instructions], len(rows), metrics))
    return tables


def _difficulty(row: InstructionRow) -> tuple[bool, float, int]:
    mrr = row.metrics.get("mrr", math.nan)
    return math.isnan(mrr), 0.0 if math.isnan(mrr) else mrr, -row.queries


def _shown_metrics(names: Iterable[str]) -> list[str]:
    """Returns what fits beside an instruction: few Ks of hit and Recall, one of the others."""
    found: list[str] = []
    for key, metrics in by_kind(names).items():
        found += _spread(metrics) if key in ("hit", "recall") else metrics[-1:]
    return found


def _spread(metrics: Sequence[str]) -> Sequence[str]:
    return (
        metrics
        if len(metrics) <= 3
        else (metrics[0], metrics[(len(metrics) - 1) // 2], metrics[-1])
    )


def map_points(evaluation: Evaluation, limits: Limits) -> list[MapPoint]:
    """Return points from all over the list, with labels fit for SVG.

    Those that have no place in a picture are left out: embeddings of length 1 are near 0.
    """
    points = [point for point in evaluation.embedding_map
              if abs(point.x) <= 1e6 and abs(point.y) <= 1e6]  # fmt: skip
    most = min(limits.points, len(points))
    kept = [points[place * len(points) // most] for place in range(most)]
    return [replace(point, label=readable(point.label, 80)) for point in kept]
