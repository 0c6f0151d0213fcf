"""What makes two pairs the same task: their words, or a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.relevance import Labels, normalise


class LabelRule:
    """From a pair to its label.

    Args:
        labels: Instruction to task label (``evaluation.relevance.read_labels``); an instruction
            without one is the only one of its task.
        same: Groups of instructions that mean the same, paraphrases or translations.
        key: Metadata key whose value is the label. Then words do not count, and a pair without a
            value has no label.

    Raises:
        InvalidInputError: If more than one is given, or they contradict themselves.
    """

    def __init__(
        self,
        labels: Mapping[str, str] | None = None,
        same: Sequence[Sequence[str]] = (),
        key: str = "",
    ) -> None:
        given = [n for n, v in (("labels", labels), ("same", same), ("label_key", key)) if v]
        if len(given) > 1:
            raise InvalidInputError(
                "labels", "one of labels, same and label_key", " and ".join(given)
            )
        self._key = key
        self._words = Labels(labels or _numbered(same))

    @property
    def description(self) -> str:
        """One line for the record."""
        if self._key:
            return f"metadata key {self._key!r}"
        return "the instruction, or the label that it has"

    def __call__(self, instruction: str, metadata: Mapping[str, str]) -> str:
        """Return the label of a pair, or an empty string where it has none."""
        if self._key:
            return metadata.get(self._key, "")
        return self._words(instruction)


def _numbered(groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return each text with the first one of its group."""
    found: dict[str, str] = {}
    for group in groups:
        for text in group:
            name = normalise(group[0])
            if found.setdefault(text, name) != name:
                raise InvalidInputError(
                    "same", "each instruction in one group", f"{text!r} in two",
                    "Join the two groups.",
                )  # fmt: skip
    return found
