"""Which entries are relevant to a query: by instruction, episode or task label, or from a file.

What is relevant to a query is looked up when it is needed, for some queries at a time: all
judgements of a long bag would fill the RAM. ``Qrels`` come with the queries in the order given. A
query without a relevant entry stays in them, and is counted apart by the metrics.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.qrels import Qrels

_END_MARKS = " .!?,;:。！？，；：、…｡~"


def normalise(instruction: str) -> str:
    """Return an instruction as it is compared: written differently, it is the same.

    Unicode NFKC (full width and half width are equal), case folding, each run of white space as one
    space, and without white space and the marks ``. ! ? , ; : ~``, also Chinese ones, at the end. A
    text of nothing but such marks keeps them. Normalising twice is the same as once.
    """
    text = instruction
    # Folding may undo the normal form and the other way round (Unicode 3.13, D146).
    while (folded := unicodedata.normalize("NFKC", text).casefold()) != text:
        text = folded
    text = " ".join(text.split())
    return text.rstrip(_END_MARKS) or text


class ByKey:
    """Makes the gallery's entries with a query's key relevant, for some queries after others.

    Args:
        entry_ids: Of the gallery, from 0 on, each once.
        entry_keys: One for each; an empty one is none.

    Raises:
        InvalidInputError: If they differ in number.
    """

    def __init__(self, entry_ids: Sequence[int], entry_keys: Iterable[str]) -> None:
        """Sort the entries by key."""
        numbers: dict[str, int] = {}
        keys = np.array(array("q", (numbers.setdefault(key, len(numbers)) for key in entry_keys)))
        ids = np.array(entry_ids, np.int64)
        _check_number("entry_ids", len(ids), len(keys))
        order = np.lexsort((ids, keys))
        self._ids = ids[order]
        ends = np.cumsum(np.bincount(keys, minlength=len(numbers)))
        self._part_of = dict(zip(numbers, itertools.pairwise([0, *ends.tolist()]), strict=True))
        self._part_of.pop("", None)

    @property
    def most(self) -> int:
        """Entries that are relevant to a query, at most."""
        return max((end - start for start, end in self._part_of.values()), default=0)

    def qrels(self, query_ids: Sequence[str], query_keys: Sequence[str]) -> Qrels:
        """Return what is relevant to some queries.

        Args:
            query_ids: ``m`` ids.
            query_keys: One for each.

        Raises:
            InvalidInputError: If they differ in number, or ``Qrels`` refuses an id.
        """
        _check_number("query_ids", len(query_ids), len(query_keys))
        parts = [self._part_of.get(key, (0, 0)) for key in query_keys]
        found = [self._ids[start:end] for start, end in parts]
        offsets = np.cumsum([0, *map(len, found)], dtype=np.int64)
        relevant = np.concatenate([*found, np.zeros(0, np.int64)])
        # One 1 for all: there are as many judgements as queries times what is relevant to each.
        grades = np.broadcast_to(np.int64(1), relevant.shape)
        return Qrels(tuple(query_ids), offsets, relevant, grades)


def _check_number(field: str, ids: int, keys: int) -> None:
    if ids != keys:
        raise InvalidInputError(field, f"one for each of {keys} keys", str(ids))


class ForGallery:
    """Brings qrels from a file to the entries of a gallery, for some queries after others.

    Args:
        qrels: Of any queries, for example from ``trec.read_qrels``.
        entry_ids: Of the gallery; an entry that it lacks is left out.
    """

    def __init__(self, qrels: Qrels, entry_ids: Sequence[int]) -> None:
        """Leave out what the gallery lacks."""
        held = np.isin(qrels.entry_ids, np.array(entry_ids, np.int64))
        rows = qrels.rows
        self._qrels = Qrels.from_pairs(
            qrels.query_ids, rows[held], qrels.entry_ids[held], qrels.grades[held]
        )
        self._gone = np.bincount(rows[~held], minlength=len(qrels.query_ids))
        self._row_of = {query_id: row for row, query_id in enumerate(qrels.query_ids)}

    @property
    def most(self) -> int:
        """Entries that are relevant to a query, at most."""
        return int(self._qrels.relevant.max(initial=0))

    def qrels(self, query_ids: Sequence[str]) -> Qrels:
        """Return qrels of exactly these queries, in this order, with grades as they were.

        A query that the file lacks has nothing relevant.

        Raises:
            InvalidInputError: If ``Qrels`` refuses the ids.
        """
        of, nothing = self._qrels, np.zeros(0, np.int64)
        found = [self._row_of.get(query_id) for query_id in query_ids]
        parts = [slice(0) if row is None else slice(of.offsets[row], of.offsets[row + 1])
                 for row in found]  # fmt: skip
        offsets = np.cumsum([0, *(part.stop - (part.start or 0) for part in parts)])
        entry_ids, grades = (
            np.concatenate([*(values[part] for part in parts), nothing])
            for values in (of.entry_ids, of.grades)
        )
        return Qrels(tuple(query_ids), offsets.astype(np.int64), entry_ids, grades)

    def notes(self, query_ids: Iterable[str]) -> tuple[str, ...]:
        """Return sentences about what the file or the gallery lacks of some queries."""
        asked = absent = gone = 0
        for query_id in query_ids:
            asked += 1
            row = self._row_of.get(query_id)
            absent += row is None
            gone += 0 if row is None else int(self._gone[row])
        said = []
        if absent:
            said.append(f"{absent} of {asked} queries are not in the qrels file.")
        if gone:
            said.append(
                f"{gone} judgement(s) of the qrels file name entries that are not in the gallery."
            )
        return tuple(said)


class Labels:
    """From an instruction to the key that its task is compared by."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """Take instruction to label.

        Raises:
            InvalidInputError: If two spellings of one instruction have different labels.
        """
        self._labels: dict[str, str] = {}
        for instruction, label in labels.items():
            before = self._labels.setdefault(normalise(instruction), label)
            if before != label:
                raise InvalidInputError(
                    "labels", "one label for an instruction",
                    f"{before!r} and {label!r} for {instruction!r}",
                )  # fmt: skip

    def __call__(self, instruction: str) -> str:
        """Return the key of an instruction's task; without a label, the instruction is the task."""
        text = normalise(instruction)
        return f"label {self._labels[text]}" if text in self._labels else f"instruction {text}"


def read_labels(path: Path) -> dict[str, str]:
    """Read task labels from a YAML or JSON file.

    Either ``instruction: label``, or ``label: [instruction, ...]``; one file may hold both.

    Returns:
        Instruction to label.

    Raises:
        InvalidInputError: If the file cannot be read, or holds anything else.
    """
    expected = "a YAML or JSON file of `instruction: label` or `label: [instruction, ...]`"
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        got = str(error).splitlines()[0]
        raise InvalidInputError("labels", expected, f"{path}: {got}") from error
    if not isinstance(content, dict):
        raise InvalidInputError("labels", expected, f"{path} with {type(content).__name__}")
    labels: dict[str, str] = {}
    for key, value in content.items():
        pairs = [(text, key) for text in value] if isinstance(value, list) else [(key, value)]
        for instruction, label in pairs:
            if not isinstance(instruction, str) or not isinstance(label, (str, int)) or label == "":
                raise InvalidInputError("labels", expected, f"{path} with {key!r}: {value!r}")
            if labels.setdefault(instruction, str(label)) != str(label):
                got = f"{labels[instruction]!r} and {label!r} for {instruction!r}"
                raise InvalidInputError("labels", "one label for an instruction", f"{path}: {got}")
    return labels
