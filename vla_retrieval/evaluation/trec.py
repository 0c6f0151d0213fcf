"""Qrels and runs in the files that trec_eval reads: UTF-8 text, columns parted by white space.

::

    qid 0 docid grade               a qrels file; grade 0 or less: judged, and not relevant
    qid Q0 docid rank score tag     a run file

A docid is an entry id. What is written and read again is the same to the last bit, except that a
run file has no line for a query without results: ``Run.aligned`` brings those back. A query without
a relevant entry does have a line in a qrels file, with docid -1 and grade 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.qrels import MAX_GRADE, Qrels
from vla_retrieval.evaluation.query_ids import checked_query_ids
from vla_retrieval.evaluation.run import PADDING, Run
from vla_retrieval.publishing import published

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,19}")
"""In ASCII digits; ``int`` alone takes ``1_0`` too."""

LARGEST = 2**63 - 1


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Write a qrels file, which appears under its name when it is whole.

    Raises:
        InvalidInputError: As ``publishing.published``.
        StorageError: As ``publishing.published``.
    """
    _write(path, qrels_lines(qrels))


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run file, which appears under its name when it is whole.

    Args:
        path: Of a file that does not exist yet.
        run: Scores are written so that they are read as the same float64.
        tag: Name of the run, a text like a query id.

    Raises:
        InvalidInputError: As ``publishing.published``, or if the tag is not such a text.
        StorageError: As ``publishing.published``.
    """
    _write(path, run_lines(run, tag))


def qrels_lines(qrels: Qrels) -> Iterator[str]:
    """Yield the lines of a qrels file, each with its line break, queries in their order."""
    for row, query_id in enumerate(qrels.query_ids):
        part = slice(qrels.offsets[row], qrels.offsets[row + 1])
        pairs = list(zip(qrels.entry_ids[part].tolist(), qrels.grades[part].tolist(), strict=True))
        for entry_id, grade in pairs or [(PADDING, 0)]:
            yield f"{query_id} 0 {entry_id} {grade}\n"


def run_lines(run: Run, tag: str) -> Iterator[str]:
    """Yield the lines of a run file, each with its line break, queries in their order.

    Raises:
        InvalidInputError: If the tag is not a text like a query id.
    """
    _check_tag(tag)
    for row, (query_id, length) in enumerate(zip(run.query_ids, run.lengths, strict=True)):
        entry_ids, scores = run.entry_ids[row, :length].tolist(), run.scores[row, :length].tolist()
        for rank, (entry_id, score) in enumerate(zip(entry_ids, scores, strict=True), start=1):
            yield f"{query_id} Q0 {entry_id} {rank} {score!r} {tag}\n"


def read_qrels(path: Path) -> Qrels:
    """Read a qrels file.

    The second column is not looked at, and neither is the docid of a line whose grade is 0 or less.
    Queries are in order of their first line.

    Raises:
        InvalidInputError: If a line is not one of a qrels file, a query has a docid twice, or the
            file cannot be read; the field is ``file:line``, or the file.
    """
    queries: dict[str, int] = {}
    found: list[tuple[int, int, int, int]] = []
    for number, at, columns in _lines(path, "qid 0 docid grade"):
        query_id, _, docid, text = columns
        grade = _whole_number(text, at, f"a whole number up to {MAX_GRADE} as grade", MAX_GRADE)
        row = _row(queries, query_id, at)
        if grade > 0:
            found.append((number, row, _entry_id(docid, at), grade))
    numbers, rows, entry_ids, grades = _columns(found, 4)
    query_ids = tuple(queries)
    _refuse_duplicates(path, query_ids, numbers, rows, entry_ids)
    return Qrels.from_pairs(query_ids, rows, entry_ids, grades)


def read_run(path: Path, depth: int | None = None) -> Run:
    """Read a run file.

    The ranking is that of the scores, and of the entry ids where scores are equal, as
    ``ranking.order`` has it; the second and the last column are not looked at, and of the rank only
    that it is a whole number. Queries are in order of their first line.

    Args:
        path: Of the file.
        depth: Most entries to keep of a query, from 1 on; the run has as many columns. None: as
            many as the query with most lines has, at least 1.

    Raises:
        InvalidInputError: If a line is not one of a run file, a query has a docid twice, or the
            file cannot be read; the field is ``file:line``, or the file. If ``depth`` is below 1.
    """
    queries: dict[str, int] = {}
    found: list[tuple[int, int, int]] = []
    scores: list[float] = []
    for number, at, columns in _lines(path, "qid Q0 docid rank score tag"):
        query_id, _, docid, rank, score, _ = columns
        _whole_number(rank, at, "a whole number as rank")
        row = _row(queries, query_id, at)
        found.append((number, row, _entry_id(docid, at)))
        scores.append(_score(score, at))
    numbers, rows, entry_ids = _columns(found, 3)
    query_ids = tuple(queries)
    _refuse_duplicates(path, query_ids, numbers, rows, entry_ids)
    return Run.from_hits(query_ids, rows, entry_ids, np.array(scores, np.float64), depth)


def _check_tag(tag: str) -> None:
    try:
        checked_query_ids([tag])
    except InvalidInputError as error:
        raise InvalidInputError("tag", "printable text without spaces", repr(tag)) from error


def _write(path: Path, lines: Iterable[str]) -> None:
    # Published, because a file that was cut short is a run like any other and scores lower.
    with published(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _lines(path: Path, layout: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yields number, ``file:number`` and columns of each line that is not blank."""
    name = str(path)
    expected = len(layout.split())
    try:
        # As bytes: text would also break lines at a lone carriage return, and one line that is not
        # UTF-8 could not be named.
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                at = f"{name}:{number}"
                columns = _decoded(line, at, first=number == 1).split()
                if columns and len(columns) != expected:
                    got = f"{len(columns)}: {' '.join(columns)[:200]!r}"
                    raise InvalidInputError(at, f"{expected} columns, {layout}", got)
                if columns:
                    yield number, at, columns
    except OSError as error:
        got = error.strerror or str(error)
        raise InvalidInputError(str(path), "a file that can be read", got) from error


def _decoded(line: bytes, at: str, *, first: bool) -> str:
    try:
        # Editors on Windows begin a file with a byte order mark.
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(at, "UTF-8 text", f"{error.reason} in {line[:80]!r}") from error


def _row(queries: dict[str, int], query_id: str, at: str) -> int:
    """Returns a query's number, the next one where it is new."""
    if query_id not in queries:
        try:
            checked_query_ids([query_id])
        except InvalidInputError as error:
            raise InvalidInputError(at, "a printable query id", repr(query_id)) from error
    return queries.setdefault(query_id, len(queries))


def _whole_number(text: str, at: str, expected: str, most: int = LARGEST) -> int:
    if WHOLE_NUMBER.fullmatch(text) is None or not -LARGEST <= int(text) <= most:
        raise InvalidInputError(at, expected, repr(text))
    return int(text)


def _entry_id(text: str, at: str) -> int:
    expected = "an entry id as docid, a whole number from 0 on"
    entry_id = _whole_number(text, at, expected)
    if entry_id < 0:
        raise InvalidInputError(at, expected, repr(text))
    return entry_id


def _score(text: str, at: str) -> float:
    expected = "a number as score"
    try:
        score = float(text)
    except ValueError:
        raise InvalidInputError(at, expected, repr(text)) from None
    # float alone also takes 1_0, and digits of other scripts.
    if np.isnan(score) or "_" in text or not text.isascii():
        raise InvalidInputError(at, expected, repr(text))
    return score


def _columns(found: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    return np.array(found, dtype=np.int64).reshape(-1, width).T


def _refuse_duplicates(
    path: Path,
    query_ids: tuple[str, ...],
    numbers: NDArray[np.int64],
    rows: NDArray[np.int64],
    entry_ids: NDArray[np.int64],
) -> None:
    by_pair = np.lexsort((numbers, entry_ids, rows))
    row, entry = rows[by_pair], entry_ids[by_pair]
    twice = by_pair[1:][(row[1:] == row[:-1]) & (entry[1:] == entry[:-1])]
    if twice.size:
        at = twice[np.argmin(numbers[twice])]
        raise InvalidInputError(
            f"{path}:{numbers[at]}", "each docid once for a query",
            f"{entry_ids[at]} again for {query_ids[rows[at]]!r}",
        )  # fmt: skip
