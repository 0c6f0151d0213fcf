"""Pairs to learn from: embeddings of both halves, and what says which belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import Memory
from vla_retrieval.training.labels import LabelRule
from vla_retrieval.types import Embeddings, Entry, Fingerprint, Modality

Progress = Callable[[str, int, int], None]

_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of one encoder's embeddings.

    Attributes:
        encoder: That made the embeddings.
        scenes: Float32, shape ``(n, encoder.dim)``, unit rows.
        instructions: Likewise.
        texts: Each pair's instruction.
        labels: Each pair's task: equal ones belong together. Not empty.
        episodes: Each pair's episode. Pairs of one episode are never told apart.
        left_out: Pairs without a label, which are not here.

    Raises:
        InvalidInputError: If there is not one of each for each pair, or an embedding is not of the
            encoder's form.
    """

    encoder: Fingerprint
    scenes: Embeddings
    instructions: Embeddings
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    episodes: tuple[str, ...]
    left_out: int = 0

    def __post_init__(self) -> None:
        """Check that there is one of each."""
        count = len(self.texts)
        for name in ("scenes", "instructions"):
            array = getattr(self, name)
            if array.shape != (count, self.encoder.dim) or array.dtype != np.float32:
                raise InvalidInputError(
                    name, f"float32 of shape ({count}, {self.encoder.dim})",
                    f"{array.dtype} of shape {array.shape}",
                )  # fmt: skip
            if not np.isfinite(array).all():
                raise InvalidInputError(name, "finite numbers", "NaN or infinity")
        for name in ("labels", "episodes"):
            if len(getattr(self, name)) != count:
                got = str(len(getattr(self, name)))
                raise InvalidInputError(name, f"one for each of {count} texts", got)
        if "" in self.labels:
            raise InvalidInputError("labels", "a label for each pair", "an empty one")

    def __len__(self) -> int:
        return len(self.texts)

    def half(self, modality: Modality) -> Embeddings:
        """Return the embeddings of one modality, shape ``(n, dim)``."""
        return self.scenes if modality is Modality.SCENE else self.instructions

    def rows(self, index: NDArray[np.int64]) -> Pairs:
        """Return some pairs."""
        chosen = index.tolist()
        return Pairs(
            self.encoder, self.scenes[index], self.instructions[index],
            tuple(self.texts[i] for i in chosen), tuple(self.labels[i] for i in chosen),
            tuple(self.episodes[i] for i in chosen),
        )  # fmt: skip

    def fingerprint(self) -> str:
        """Return ``"sha256:<hex>"`` of all of it: embeddings, texts, labels and episodes."""
        digest = hashlib.sha256(f"{self.encoder}\n".encode())
        for array in (self.scenes, self.instructions):
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        for words in (self.texts, self.labels, self.episodes):
            digest.update("\0".join(words).encode("utf-8", "surrogatepass"))
            digest.update(b"\n")
        return f"sha256:{digest.hexdigest()}"


def codes_of(words: Sequence[str]) -> NDArray[np.int64]:
    """Return numbers in place of words, equal where the words are, in order of appearance."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(word, len(number)) for word in words], np.int64)


def from_memory(
    memory: Memory, rule: LabelRule, progress: Progress = lambda doing, done, total: None
) -> Pairs:
    """Return the pairs of a memory; entries without an ``episode_id`` count as one episode.

    Args:
        memory: Whose embeddings are the encoder's own. Nobody may remove entries meanwhile.
        rule: Gives each its label.
        progress: Told how far it is.

    Raises:
        InvalidInputError: If the memory was made with a head.
        EntryNotFoundError: If an entry was removed meanwhile.
        StorageError: If the memory cannot be read.
    """
    if memory.fingerprint.head:
        raise InvalidInputError(
            "memory", "embeddings as the encoder made them", f"those of {memory.fingerprint}",
            "Train on a memory that was made without a head.",
        )  # fmt: skip
    ids = memory.entry_ids()
    entries: list[Entry] = []
    halves: dict[Modality, list[Embeddings]] = {m: [] for m in Modality}
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        entries += memory.get_many(some)
        for modality in Modality:
            halves[modality].append(memory.embeddings_of(some, modality))
        progress("reading", start + len(some), len(ids))
    labels = [rule(e.instruction, e.metadata) for e in entries]
    kept = np.array([i for i, label in enumerate(labels) if label], np.int64)
    empty = np.zeros((0, memory.fingerprint.dim), np.float32)
    scenes, instructions = (np.concatenate([empty, *halves[m]])[kept] for m in Modality)
    return Pairs(
        memory.fingerprint, scenes, instructions,
        tuple(entries[i].instruction for i in kept),
        tuple(labels[i] for i in kept),
        tuple(entries[i].episode_id for i in kept),
        len(entries) - len(kept),
    )  # fmt: skip
