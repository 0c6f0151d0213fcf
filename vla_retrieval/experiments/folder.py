"""A finished evaluation as a folder: the report, and the files other tools can score."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation import trec
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.report.libraries import PAGE_LIBRARIES, library
from vla_retrieval.evaluation.report.writing import write_report
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.publishing import check_place

_TAG = "vla_retrieval"
_QUERY_COLUMNS = ("query_id", "instruction")


def check_folder(folder: Path) -> None:
    """Check that a folder can be written, before hours of work whose result it will hold.

    Raises:
        InvalidInputError: If the folder exists or its parent does not.
        MissingLibraryError: If what makes the page is not installed.
    """
    check_place(folder)
    for name in PAGE_LIBRARIES:
        library(name)


def write_folder(outcome: Outcome, folder: Path, title: str) -> None:
    """Write the page, JSON, CSV, and a TREC run, qrels and the instruction of each query.

    The last three are written for each direction.

    Args:
        outcome: Of an evaluation.
        folder: New; it appears when it is whole.
        title: Of the page.

    Raises:
        InvalidInputError: If the folder exists or its parent does not.
        MissingLibraryError: If what makes the page is not installed.
        StorageError: If the disk refuses.
    """

    def write_trec(partial: Path) -> None:
        for direction, ranked in outcome.ranked.items():
            lines = (trec.run_lines(run, _TAG) for run, _ in ranked.parts())
            _write(partial / _file(direction, "run"), chain.from_iterable(lines))
            lines = (trec.qrels_lines(qrels) for _, qrels in ranked.parts())
            _write(partial / _file(direction, "qrels"), chain.from_iterable(lines))
            with (partial / _queries(direction)).open("w", encoding="utf-8", newline="") as file:
                rows = ((frame.query_id, frame.instruction) for frame in ranked.frames)
                csv.writer(file).writerows(chain([_QUERY_COLUMNS], rows))

    write_report(outcome.evaluation, folder, title, write_trec)


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


def read_instructions(folder: Path, direction: str) -> dict[str, str] | None:
    """Return each query's instruction, or None where an older release wrote the folder.

    Raises:
        InvalidInputError: If the file is not what ``write_folder`` wrote.
    """
    path = folder / _queries(direction)
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
            found = dict(rows)
    except (OSError, ValueError, csv.Error) as error:
        got = str(error)
    else:
        if tuple(header) == _QUERY_COLUMNS:
            return found
        got = ",".join(header)
    raise InvalidInputError(str(path), "query_id,instruction as `evaluate` writes them", got)


def _file(direction: str, kind: str) -> str:
    return f"{direction.replace(' ', '_')}.{kind}.txt"


def _queries(direction: str) -> str:
    return f"{direction.replace(' ', '_')}.queries.csv"


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines)
