"""Which entries are relevant to a query: by instruction, episode or task label, or from a file.

Each function gives ``Qrels`` with the queries in the order given. A query without a relevant entry
stays in it, and is counted apart by the metrics.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
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


def by_instruction(
    query_ids: Sequence[str],
    query_instructions: Sequence[str],
    entry_ids: Sequence[int],
    entry_instructions: Sequence[str],
) -> Qrels:
    """Make entries with the query's instruction relevant, compared as ``normalise`` writes it.

    Raises:
        InvalidInputError: If ids and instructions differ in number, or ``Qrels`` refuses an id.
    """
    return by_key(
        query_ids,
        [normalise(text) for text in query_instructions],
        entry_ids,
        [normalise(text) for text in entry_instructions],
    )


def by_label(
    query_ids: Sequence[str],
    query_instructions: Sequence[str],
    entry_ids: Sequence[int],
    entry_instructions: Sequence[str],
    labels: Mapping[str, str],
) -> Qrels:
    """Make entries whose instruction has the same task label as the query's relevant.

    Args:
        query_ids: ``m`` ids.
        query_instructions: One for each.
        entry_ids: Of the gallery.
        entry_instructions: One for each.
        labels: Instruction to label (``read_labels``), compared as ``normalise`` writes it. An
            instruction without a label is the only one of its task.

    Raises:
        InvalidInputError: If ids and instructions differ in number, or ``Qrels`` refuses an id.
    """
    key = Labels(labels)
    return by_key(
        query_ids,
        [key(text) for text in query_instructions],
        entry_ids,
        [key(text) for text in entry_instructions],
    )


def by_key(
    query_ids: Sequence[str],
    query_keys: Sequence[str],
    entry_ids: Sequence[int],
    entry_keys: Sequence[str],
) -> Qrels:
    """Make entries with the query's key relevant: an episode id, or a label from metadata.

    An empty key is no key: it matches nothing, not even another empty one.

    Args:
        query_ids: ``m`` ids.
        query_keys: One for each.
        entry_ids: Of the gallery, from 0 on, each once.
        entry_keys: One for each.

    Raises:
        InvalidInputError: If ids and keys differ in number, or ``Qrels`` refuses an id.
    """
    for field, ids, keys in (
        ("query_ids", query_ids, query_keys),
        ("entry_ids", entry_ids, entry_keys),
    ):
        if len(ids) != len(keys):
            raise InvalidInputError(field, f"one for each of {len(keys)} keys", str(len(ids)))
    of_key: dict[str, list[int]] = {}
    for entry_id, key in zip(entry_ids, entry_keys, strict=True):
        if key:
            of_key.setdefault(key, []).append(int(entry_id))
    parts = {key: np.sort(np.array(ids, np.int64)) for key, ids in of_key.items()}
    nothing = np.zeros(0, np.int64)
    found = [parts.get(key, nothing) for key in query_keys]
    offsets = np.cumsum([0, *map(len, found)], dtype=np.int64)
    relevant = np.concatenate([*found, nothing])
    # One 1 for all: there are as many judgements as queries times what is relevant to each.
    grades = np.broadcast_to(np.int64(1), relevant.shape)
    return Qrels(tuple(query_ids), offsets, relevant, grades)


def for_gallery(
    qrels: Qrels, query_ids: Sequence[str], entry_ids: Sequence[int]
) -> tuple[Qrels, tuple[str, ...]]:
    """Bring qrels from a file to the queries and entries of an evaluation.

    Args:
        qrels: Of any queries, for example from ``trec.read_qrels``.
        query_ids: Whose relevance is wanted, in this order.
        entry_ids: Of the gallery.

    Returns:
        Qrels of exactly these queries, with grades as they were; a query that the file lacks has
        nothing relevant, and an entry that the gallery lacks is left out. And sentences about both.

    Raises:
        InvalidInputError: If ``Qrels`` refuses the ids.
    """
    row_of = {query_id: row for row, query_id in enumerate(query_ids)}
    rows = np.array([row_of.get(query_id, -1) for query_id in qrels.query_ids], np.int64)
    rows = rows[qrels.rows] if len(rows) else np.zeros(0, np.int64)
    asked = rows >= 0
    held = np.isin(qrels.entry_ids, np.array(entry_ids, np.int64))
    kept = asked & held
    notes = []
    if absent := len(set(query_ids) - set(qrels.query_ids)):
        notes.append(f"{absent} of {len(query_ids)} queries are not in the qrels file.")
    if gone := int(np.count_nonzero(asked & ~held)):
        notes.append(
            f"{gone} judgement(s) of the qrels file name entries that are not in the gallery."
        )
    made = Qrels.from_pairs(query_ids, rows[kept], qrels.entry_ids[kept], qrels.grades[kept])
    return made, tuple(notes)


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
    except (OSError, ValueError, yaml.YAMLError) as error:
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
