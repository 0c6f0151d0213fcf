"""Heads in plain numpy, and the oracle of a memory that has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import SearchResult
from vla_retrieval.projection import Codes, Head
from vla_retrieval.types import (
    Embeddings,
    Filter,
    Fingerprint,
    Modality,
    NewEntry,
    Probe,
    Similarity,
)

from .oracle import BruteForce, fingerprint, unit


@dataclass(frozen=True)
class LinearHead:
    """A matrix per modality; its codes are on which side of random planes a projection lies."""

    matrices: dict[Modality, NDArray[np.float64]]
    encoder: Fingerprint
    bits: int = 0
    method: str = "joint"
    planes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def digest(self) -> str:
        parts = [self.matrices[m].tobytes() for m in Modality]
        content = b"".join([*parts, self.planes.tobytes()])
        return "sha256:" + sha256(content).hexdigest()

    @property
    def dim(self) -> int:
        return self.matrices[Modality.SCENE].shape[1]

    def project(self, embeddings: Embeddings, modality: Modality) -> Embeddings:
        return unit(row_by_row(embeddings, self.matrices[modality]))

    def codes(self, embeddings: Embeddings, modality: Modality) -> Codes:
        if not self.bits:
            raise InvalidInputError("bits", "a head with codes", "0")
        return np.packbits(row_by_row(self.project(embeddings, modality), self.planes) > 0, axis=1)


def row_by_row(vectors: Embeddings, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``vectors @ matrix``; BLAS would pick its order of summation by the rows."""
    wide = vectors.astype(np.float64)
    found: NDArray[np.float64] = (wide[:, :, np.newaxis] * matrix).sum(axis=1)
    return found


def make_head(
    dim: int, seed: int, *, width: int = 0, bits: int = 0, normalized: bool = True
) -> LinearHead:
    """Return a head that turns each modality in its own way, into fewer dimensions if asked."""
    rng = np.random.default_rng(seed)
    width = width or dim
    matrices = {
        m: np.ascontiguousarray(np.linalg.qr(rng.standard_normal((dim, dim)))[0][:, :width])
        for m in Modality
    }
    planes = rng.standard_normal((width, bits))
    encoder = fingerprint(dim, normalized=normalized)
    return LinearHead(matrices, encoder, bits, "hash" if bits else "joint", planes)


class Projected(BruteForce):
    """Brute force over what a head makes of the entries and of the queries."""

    def __init__(self, head: Head | None) -> None:
        super().__init__()
        self.head = head

    def add(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> list[int]:
        if self.head is None:
            return super().add(entries, scenes, instructions)
        return super().add(
            entries,
            self.head.project(scenes, Modality.SCENE),
            self.head.project(instructions, Modality.INSTRUCTION),
        )

    def search(
        self,
        similarity: Similarity,
        probes: Sequence[Probe],
        k: int,
        wanted: Filter = Filter(),  # noqa: B008  (immutable)
        min_score: float = -np.inf,
    ) -> SearchResult:
        if self.head is not None:
            probes = [
                replace(p, vector=self.head.project(p.vector[None], p.source)[0])
                for p in probes
                if p.source is not None
            ]
        return super().search(similarity, probes, k, wanted, min_score)
