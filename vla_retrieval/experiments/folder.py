"""A finished evaluation as a folder: the report, and the files other tools can score."""

from __future__ import annotations

from pathlib import Path

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation import trec
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.report.csv_files import write_instructions_csv, write_summary_csv
from vla_retrieval.evaluation.report.json_file import write_json
from vla_retrieval.evaluation.report.page import render_evaluation
from vla_retrieval.evaluation.report.writing import INSTRUCTIONS, JSON, PAGE, SUMMARY
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.offline import Outcome
from vla_retrieval.publishing import published

_TAG = "vla_retrieval"


def write_folder(outcome: Outcome, folder: Path, title: str) -> None:
    """Write the page, JSON, CSV, and a TREC run and qrels per direction.

    Args:
        outcome: Of an evaluation.
        folder: New; it appears when it is whole.
        title: Of the page.

    Raises:
        InvalidInputError: If the folder exists or its parent does not.
        MissingLibraryError: If what makes the page is not installed.
        StorageError: If the disk refuses.
    """
    evaluation = outcome.evaluation
    page = render_evaluation(evaluation, title)
    with published(folder) as partial:
        partial.mkdir()
        (partial / PAGE).write_text(page, encoding="utf-8", errors="replace")
        write_json(evaluation, partial / JSON)
        write_summary_csv(evaluation, partial / SUMMARY)
        write_instructions_csv(evaluation, partial / INSTRUCTIONS)
        for direction, ranked in outcome.ranked.items():
            _write(partial / _file(direction, "run"), trec.run_lines(ranked.run, _TAG))
            _write(partial / _file(direction, "qrels"), trec.qrels_lines(ranked.qrels))


def read_trec(folder: Path, direction: str) -> tuple[Qrels, Run]:
    """Return one direction's relevance and ranking.

    Raises:
        InvalidInputError: If the folder was not written by ``write_folder``.
    """
    qrels, run = (folder / _file(direction, kind) for kind in ("qrels", "run"))
    for path in (qrels, run):
        if not path.is_file():
            raise InvalidInputError(
                "folders", "what `evaluate` wrote", f"no {path.name} in {folder}"
            )
    return trec.read_qrels(qrels), trec.read_run(run)


def _file(direction: str, kind: str) -> str:
    return f"{direction.replace(' ', '_')}.{kind}.txt"


def _write(path: Path, lines: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines)  # type: ignore[arg-type]
