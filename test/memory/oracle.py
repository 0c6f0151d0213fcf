"""A memory in plain numpy that scores everything, to compare the real one with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory import SearchResult
from vla_retrieval.types import (
    Candidate,
    Embeddings,
    Filter,
    Fingerprint,
    Modality,
    Nearby,
    NewEntry,
    Probe,
    Similarity,
)

DIM = 8
"""Length of an embedding in most tests."""

Stored = tuple[NewEntry, Embeddings, Embeddings]


def fingerprint(dim: int, *, normalized: bool = True, model: str = "double") -> Fingerprint:
    return Fingerprint(model, "sha256:" + "0" * 64, "224 bicubic", dim, normalized)


def unit(vectors: NDArray[np.floating]) -> Embeddings:
    wide = vectors.astype(np.float64)
    scaled: Embeddings = (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def unit_vectors(count: int, dim: int, seed: int) -> Embeddings:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def similarity_with_all(
    similarity: Similarity, query: Embeddings, vectors: Embeddings
) -> NDArray[np.float64]:
    """Float64, row by row, from float32 vectors; cosine from those of unit length."""
    found: NDArray[np.float64]
    if similarity is Similarity.NEGATIVE_L2:
        found = -np.sqrt(((vectors.astype(np.float64) - query.astype(np.float64)) ** 2).sum(axis=1))
        return found
    if similarity is Similarity.COSINE:
        query, vectors = unit(query), unit(vectors)
    q, c = query.astype(np.float64), vectors.astype(np.float64)
    found = (c * q).sum(axis=1)
    if similarity is Similarity.COSINE:
        found = np.clip(found / np.sqrt((c**2).sum(axis=1) * (q**2).sum()), -1.0, 1.0)
    return found


def passes(entry: NewEntry, wanted: Filter) -> bool:
    return (
        (wanted.stamp_from_ns is None or entry.stamp_ns >= wanted.stamp_from_ns)
        and (wanted.stamp_to_ns is None or entry.stamp_ns <= wanted.stamp_to_ns)
        and (not wanted.episode_ids or entry.episode_id in wanted.episode_ids)
        and (not wanted.outcomes or entry.outcome in wanted.outcomes)
        and (not wanted.frame_ids or entry.frame_id in wanted.frame_ids)
        and set(wanted.tags) <= set(entry.tags)
        and all(entry.metadata.get(key) == value for key, value in wanted.metadata.items())
        and (wanted.near is None or is_near(entry, wanted.near))
    )


def is_near(entry: NewEntry, near: Nearby) -> bool:
    pose = entry.camera_pose
    return (
        pose is not None
        and pose.frame_id == near.frame_id
        and math.dist(pose.position, near.position) <= near.radius_m
    )


@dataclass
class BruteForce:
    """The same entries, searched by scoring each."""

    rows: dict[int, Stored] = field(default_factory=dict)
    next_id: int = 1

    def add(
        self, entries: Sequence[NewEntry], scenes: Embeddings, instructions: Embeddings
    ) -> list[int]:
        given = range(self.next_id, self.next_id + len(entries))
        self.rows.update(zip(given, zip(entries, scenes, instructions, strict=True), strict=True))
        self.next_id += len(entries)
        return list(given)

    def remove(self, entry_ids: Sequence[int]) -> None:
        for entry_id in entry_ids:
            self.rows.pop(entry_id, None)

    def search(
        self,
        similarity: Similarity,
        probes: Sequence[Probe],
        k: int,
        wanted: Filter = Filter(),  # noqa: B008  (immutable)
        min_score: float = -math.inf,
    ) -> SearchResult:
        excluded = frozenset(wanted.exclude_ids)
        ids = [
            i for i, (entry, _, _) in self.rows.items()
            if i not in excluded and passes(entry, wanted)
        ]  # fmt: skip
        found: list[Candidate] = []
        if ids:
            total = np.zeros(len(ids))
            halves: dict[Modality, NDArray[np.float64]] = {}
            for modality, column in ((Modality.SCENE, 1), (Modality.INSTRUCTION, 2)):
                vectors = np.array([self.rows[i][column] for i in ids])
                parts = [p for p in probes if p.modality is modality]
                scores = [similarity_with_all(similarity, p.vector, vectors) for p in parts]
                weighted = np.zeros(len(ids))
                for part, score in zip(parts, scores, strict=True):
                    weighted = weighted + part.weight * score
                total = total + weighted
                nothing = np.full(len(ids), np.nan)
                halves[modality] = (
                    nothing if not scores else scores[0] if len(scores) == 1 else weighted
                )
            found = [
                Candidate(i, *map(float, columns))
                for i, *columns in zip(ids, total, *halves.values(), strict=True)
            ]
        ranked = sorted(found, key=lambda c: (-c.score, c.entry_id))
        best = tuple(c for c in ranked if c.score >= min_score)[:k]
        return SearchResult(best, len(self.rows), len(ids), True, 0.0, 0.0)


def assert_same(found: SearchResult, expected: SearchResult) -> None:
    def ids(result: SearchResult) -> list[int]:
        return [candidate.entry_id for candidate in result.candidates]

    def scores(result: SearchResult) -> NDArray[np.float64]:
        return np.array(
            [(c.score, c.scene_score, c.instruction_score) for c in result.candidates]
        ).reshape(-1, 3)

    assert ids(found) == ids(expected)
    np.testing.assert_allclose(scores(found), scores(expected), rtol=1e-12, atol=1e-12)
    assert found.memory_size == expected.memory_size
    assert found.eligible_size == expected.eligible_size
