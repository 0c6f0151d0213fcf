"""The two halves of an index's entries, and the query vectors that are compared with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vla_retrieval.memory.codes import Codes
from vla_retrieval.memory.hashing import HashCodes
from vla_retrieval.memory.vectors import Vectors
from vla_retrieval.projection import Codes as Hashes
from vla_retrieval.types import Embeddings, Modality, Probe, Similarity

ROUNDED_UP = 1.0001  # a length in float32 is off by less
_CODED_AT_ONCE = 128  # rows; comparing as many takes some microseconds


@dataclass
class Half:
    """The scenes or the instructions.

    Attributes:
        vectors: As they are compared.
        codes: To propose rows, or None to compare all.
        longest: At least the length of the longest vector that was ever added.
    """

    vectors: Vectors
    codes: Codes | HashCodes | None = None
    longest: float = 0.0
    _uncoded: list[Embeddings] = field(default_factory=list)

    @property
    def coded(self) -> int:
        """How many rows, from the first on, have codes."""
        return len(self.vectors if self.codes is None else self.codes)

    def append(self, vectors: Embeddings, hashes: Hashes | None) -> None:
        """Append vectors as they are compared, shape ``(n, width)``, and their binary codes.

        Codes that are fitted here are made of many rows at once: one at a time takes several times
        as long. Until then the last rows have none.
        """
        if len(vectors):
            squares = np.einsum("ij,ij->i", vectors, vectors)
            self.longest = max(self.longest, math.sqrt(float(squares.max())) * ROUNDED_UP)
            self.vectors.append(vectors)
            if isinstance(self.codes, HashCodes):
                assert hashes is not None
                self.codes.append(hashes)
            elif self.codes is not None:
                self._uncoded.append(vectors)
                if len(self.vectors) - len(self.codes) >= _CODED_AT_ONCE:
                    self.settle()

    def settle(self) -> None:
        """Make codes of the rows that have none yet."""
        if self._uncoded and isinstance(self.codes, Codes):
            self.codes.append(np.concatenate(self._uncoded))
        self._uncoded.clear()

    @property
    def size_bytes(self) -> int:
        """About how much RAM it takes."""
        codes = 0 if self.codes is None else self.codes.size_bytes
        return len(self.vectors) * self.vectors.bytes_per_row + codes


@dataclass(frozen=True)
class Ready(Probe):
    """A probe whose vector is as it is compared.

    Attributes:
        hashes: Its binary code, shape ``(1, bits / 8)``, where the index has such.
    """

    hashes: Hashes | None = None


class Scan(NamedTuple):
    """One query vector against one half.

    Attributes:
        modality: Which half.
        query: Shape ``(width,)``.
        length: At least its length; not needed for distances.
        weight: Of its scores in the sum.
        sources: What it was made from.
        hashes: Binary codes of what it was made from, shape ``(n, bits / 8)``, or None.
    """

    modality: Modality
    query: Embeddings
    length: float
    weight: float
    sources: frozenset[Modality | None]
    hashes: Hashes | None


def scans_of(similarity: Similarity, probes: Sequence[Ready]) -> list[Scan]:
    """Return what is compared.

    Dot products are linear in the query, so the probes of one half become one. Weights are
    taken relative to the largest, which keeps their products in the range of float32.

    Args:
        similarity: How vectors are compared.
        probes: With weights above 0.
    """
    if len(probes) == 1:
        return [_alone(similarity, probes[0], 1.0)]
    largest = max((probe.weight for probe in probes), default=1.0)
    if similarity is Similarity.NEGATIVE_L2:
        return [_alone(similarity, probe, probe.weight / largest) for probe in probes]
    found = []
    for modality in Modality:
        of_half = [probe for probe in probes if probe.modality is modality]
        if len(of_half) == 1 and of_half[0].weight == largest:
            found.append(_alone(similarity, of_half[0], 1.0))
        elif of_half:
            found.append(_summed(modality, of_half, largest))
    return found


def _alone(similarity: Similarity, probe: Ready, weight: float) -> Scan:
    length = 0.0
    if similarity is not Similarity.NEGATIVE_L2:
        length = math.sqrt(float(probe.vector @ probe.vector)) * ROUNDED_UP
    sources = frozenset((probe.source,))
    return Scan(probe.modality, probe.vector, length, weight, sources, probe.hashes)


def _summed(modality: Modality, probes: Sequence[Ready], largest: float) -> Scan:
    """Return the weighted sum of the probes of one half, for dot products."""
    parts = [(p.weight / largest) * p.vector.astype(np.float64) for p in probes]
    length = sum(float(np.linalg.norm(part)) for part in parts)
    sources = frozenset(probe.source for probe in probes)
    query = np.sum(parts, axis=0).astype(np.float32)
    # Each part proposes for itself: a code of their sum would not be a head's.
    codes = [p.hashes for p in probes if p.hashes is not None]
    hashes = np.concatenate(codes) if codes else None
    return Scan(modality, query, length, 1.0, sources, hashes)
