"""The numbers of an evaluation as CSV, for spreadsheets and notebooks.

Numbers have all their digits; a number that does not exist (NaN) is an empty field.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from vla_retrieval.evaluation.report.naming import split_metric
from vla_retrieval.evaluation.results import DirectionResult, Evaluation
from vla_retrieval.publishing import published

SUMMARY_COLUMNS = (
    "direction", "metric", "k", "average", "value", "low", "high", "queries", "without_relevant",
)  # fmt: skip
INSTRUCTION_COLUMNS = ("direction", "instruction", "queries", "relevant")


def summary_csv(evaluation: Evaluation) -> str:
    """Return one row for each direction, metric at K and average (``micro``, then ``macro``).

    ``k`` is empty for a metric that has none; ``low`` and ``high`` bound the 95% interval.
    """
    rows = [
        (name, *split_metric(metric), average, *map(_number, (of.value, of.low, of.high)),
         result.queries, result.without_relevant)
        for name, result in evaluation.directions.items()
        for average, estimates in (("micro", result.micro), ("macro", result.macro))
        for metric, of in estimates.items()
    ]  # fmt: skip
    return _text(SUMMARY_COLUMNS, rows)


def instructions_csv(evaluation: Evaluation) -> str:
    """Return one row for each direction and instruction, with one column for each metric.

    Columns are those of all directions, in order of appearance; a metric that a row lacks is empty.
    """
    metrics = metric_names(evaluation.directions.values())
    rows = [
        (name, row.instruction, row.queries, _number(row.relevant),
         *(_number(row.metrics.get(metric, math.nan)) for metric in metrics))
        for name, result in evaluation.directions.items()
        for row in result.per_instruction
    ]  # fmt: skip
    return _text((*INSTRUCTION_COLUMNS, *metrics), rows)


def metric_names(results: Iterable[DirectionResult]) -> tuple[str, ...]:
    """Return the metrics in the instructions' rows, each once, in order of appearance."""
    rows = (row for result in results for row in result.per_instruction)
    return tuple(dict.fromkeys(metric for row in rows for metric in row.metrics))


def write_summary_csv(evaluation: Evaluation, target: Path) -> None:
    """Write ``summary_csv`` to a new file as UTF-8; it appears when it is whole.

    Raises:
        InvalidInputError: If the file exists or its folder does not.
        StorageError: If the disk refuses.
    """
    with published(target) as partial:
        partial.write_bytes(summary_csv(evaluation).encode("utf-8", "backslashreplace"))


def write_instructions_csv(evaluation: Evaluation, target: Path) -> None:
    """Write ``instructions_csv`` to a new file; it appears when it is whole.

    It is UTF-8 with a byte order mark: without one, Excel shows Chinese as other characters.

    Raises:
        InvalidInputError: If the file exists or its folder does not.
        StorageError: If the disk refuses.
    """
    with published(target) as partial:
        partial.write_bytes(instructions_csv(evaluation).encode("utf-8-sig", "backslashreplace"))


def _text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
