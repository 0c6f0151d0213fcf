"""A folder with everything that is known about an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vla_retrieval.evaluation.report.csv_files import write_instructions_csv, write_summary_csv
from vla_retrieval.evaluation.report.json_file import write_json
from vla_retrieval.evaluation.report.page import render_evaluation
from vla_retrieval.evaluation.results import Evaluation
from vla_retrieval.publishing import published

PAGE, JSON = "index.html", "evaluation.json"
SUMMARY, INSTRUCTIONS = "summary.csv", "instructions.csv"


def write_report(
    evaluation: Evaluation,
    folder: Path,
    title: str = "Retrieval evaluation",
    also: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write ``index.html``, ``evaluation.json``, ``summary.csv`` and ``instructions.csv``.

    Args:
        evaluation: To be written.
        folder: New; it appears when all in it are whole.
        title: Of the page.
        also: Writes more files into the folder before it appears.

    Raises:
        InvalidInputError: If the folder exists or its parent does not.
        MissingLibraryError: If matplotlib or Jinja2 is not installed.
        StorageError: If the disk refuses.
    """
    page = render_evaluation(evaluation, title)
    with published(folder) as partial:
        partial.mkdir()
        (partial / PAGE).write_text(page, encoding="utf-8", errors="replace")
        write_json(evaluation, partial / JSON)
        write_summary_csv(evaluation, partial / SUMMARY)
        write_instructions_csv(evaluation, partial / INSTRUCTIONS)
        also(partial)
