"""The index: both halves of the entries and their filter columns, in RAM, derived from SQLite.

There are four kinds. ``EXACT`` compares a query with every row. ``IVF`` lets short codes propose
rows and compares those. ``IVF_SQ8`` is the same with 8 bits per number in RAM; the few rows that
remain are compared with their embeddings on disk. ``HASH`` lets binary codes propose, of a head
that was trained to make them or fitted here, and holds vectors like either of the two. In each
kind the scores that come out are computed in float64 from the embeddings as they were stored,
projected where there is a head.

What is compared are the embeddings, or what a learned head makes of them: the head is part of
the index, so that a query is always projected by the head that projected what it is compared with.

Not safe for concurrent use: the memory holds its lock around every call.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import kernels
from vla_retrieval.memory.codes import Codes, Effort, Selection
from vla_retrieval.memory.columns import Columns, Mask, Rows
from vla_retrieval.memory.hashing import HashCodes, Planes
from vla_retrieval.memory.similarity import Tolerance, prepared, similarities
from vla_retrieval.memory.vectors import Vectors, WholeVectors
from vla_retrieval.projection import Codes as Hashes
from vla_retrieval.projection import Head
from vla_retrieval.types import Embeddings, Modality, NewEntry, Probe, Similarity

_SCORED_DIRECTLY = 256
"""Up to this many eligible rows are scored in float64 at once: about 0.2 ms at 512 dimensions."""

_WORTH_RANKING = 1 / 8
"""FAISS picks up to this share of the rows; from there on numpy's partition is no slower."""

_MORE_THAN_ASKED = 16
"""Fetched beyond k, so that seldom a second pass is needed for those that tie with the k-th."""

_COMPARED_WHOLE, _COMPARED_BYTES = 8192, 2048
"""Up to this many eligible rows are all compared, exactly, where codes would propose some."""

_ROUNDED_UP = 1.0001  # a length in float32 is off by less

_DEVIATIONS = 8.0
"""Of the error of vectors in bytes: four for the k-th best, four for one that belongs there."""

_UNSEEN = Effort(probes=64, depth=512)
"""For a direction that was not tuned."""

Originals = Callable[[Modality, Rows], tuple[Rows, Embeddings]]
"""Reads stored embeddings of rows: those rows that are still there, and shape ``(n, dim)``."""


class IndexKind(enum.Enum):
    """How the index finds entries."""

    EXACT = "exact"
    IVF = "ivf"
    IVF_SQ8 = "ivf_sq8"
    HASH = "hash"


class Direction(NamedTuple):
    """Who asks for what; effort is tuned for each.

    Attributes:
        source: What the query's vector was made from.
        target: The half that it is compared with.
        pair: Whether the other half is compared as well.
    """

    source: Modality
    target: Modality
    pair: bool


class Scores(NamedTuple):
    """Entries that may be among the best, unranked; every array has shape ``(n,)``.

    Attributes:
        entry_ids: Ascending.
        scores: The weighted sum over the probes.
        scene_scores: Similarity of the scenes, NaN if no probe asked for it.
        instruction_scores: The same of the instructions.
        exact: Whether no entry that is missing would rank among the best.
    """

    entry_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    scene_scores: NDArray[np.float64]
    instruction_scores: NDArray[np.float64]
    exact: bool


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

    def append(self, vectors: Embeddings, hashes: Hashes | None) -> None:
        """Append vectors as they are compared, shape ``(n, width)``, and their binary codes."""
        if len(vectors):
            squares = np.einsum("ij,ij->i", vectors, vectors)
            self.longest = max(self.longest, math.sqrt(float(squares.max())) * _ROUNDED_UP)
            self.vectors.append(vectors)
            if isinstance(self.codes, HashCodes):
                assert hashes is not None
                self.codes.append(hashes)
            elif self.codes is not None:
                self.codes.append(vectors)

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


class _Scan(NamedTuple):
    """One query vector against one half.

    Attributes:
        query: Shape ``(dim,)``.
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


@dataclass
class Index:
    """Finds the best entries for any probes.

    Attributes:
        dim: Length of an embedding as it is added.
        similarity: How vectors are compared.
        kind: How entries are found.
        halves: Their vectors.
        columns: Their entries.
        efforts: How hard each direction searches; without codes, none.
        recalls: What share of the ten best it found when that was tuned.
        threads: Of FAISS, in a search.
        built_rows: Rows there were when the codes were fitted.
        head: Projects embeddings before they are compared, or None.
        planes: Make the binary codes of kind ``HASH`` where the head does not.
    """

    dim: int
    similarity: Similarity
    kind: IndexKind
    halves: dict[Modality, Half]
    columns: Columns = field(default_factory=Columns)
    efforts: dict[Direction, Effort] = field(default_factory=dict)
    recalls: dict[Direction, float] = field(default_factory=dict)
    threads: int = 1
    built_rows: int = 0
    head: Head | None = None
    planes: Planes | None = None

    @classmethod
    def exact(
        cls, dim: int, similarity: Similarity, threads: int = 1, head: Head | None = None
    ) -> Index:
        """Return an empty index that compares everything."""
        squares = similarity is Similarity.NEGATIVE_L2
        width = dim if head is None else head.dim
        halves = {m: Half(WholeVectors(width, squares=squares)) for m in Modality}
        return cls(dim, similarity, IndexKind.EXACT, halves, threads=threads, head=head)

    def __len__(self) -> int:
        """Return the number of entries."""
        return self.columns.rows - self.columns.dead

    @property
    def width(self) -> int:
        """Length of a vector as it is compared."""
        return self.dim if self.head is None else self.head.dim

    @property
    def whole(self) -> bool:
        """Whether vectors are whole in RAM."""
        return all(half.vectors.whole for half in self.halves.values())

    @property
    def size_bytes(self) -> int:
        """About how much RAM it takes."""
        return self.columns.size_bytes + sum(half.size_bytes for half in self.halves.values())

    def add(
        self,
        entry_ids: Sequence[int],
        entries: Sequence[NewEntry],
        scenes: Embeddings,
        instructions: Embeddings,
    ) -> None:
        """Append entries.

        Args:
            entry_ids: Ascending, all above those already there.
            entries: Theirs.
            scenes: Shape ``(n, dim)``, as the encoder made them.
            instructions: Shape ``(n, dim)``, as the encoder made them.
        """
        with kernels.threads(self.threads):
            for modality, added in zip(Modality, (scenes, instructions), strict=True):
                vectors = self.compared(added, modality)
                self.halves[modality].append(vectors, self._hashes(added, vectors, modality))
        self.columns.append(entry_ids, entries)

    def compared(self, embeddings: Embeddings, modality: Modality) -> Embeddings:
        """Return embeddings as they are compared: projected, then prepared for the similarity.

        Args:
            embeddings: Shape ``(n, dim)``, as the encoder made them.
            modality: What they were made from.

        Returns:
            Shape ``(n, width)``.
        """
        if self.head is not None and len(embeddings):
            embeddings = self.head.project(embeddings, modality)
        return prepared(self.similarity, embeddings.reshape(-1, self.width))

    def remove(self, entry_ids: Sequence[int]) -> None:
        """Remove the entries that are there; the others are no error."""
        if not len(entry_ids):  # also an array
            return
        self.columns.bury(self.columns.rows_of(np.array(entry_ids, dtype=np.int64)))

    def search(
        self, probes: Sequence[Probe], k: int, mask: Mask | None, originals: Originals
    ) -> Scores:
        """Return the ``k`` best entries, and more, with exact scores.

        Where it says ``exact``, no entry that is left out would rank among the ``k`` best, ties
        included, so that ranking what comes back gives what ranking all entries would give.

        Args:
            probes: Vectors of shape ``(dim,)``, as the encoder made them.
            k: From 1 on.
            mask: Rows that may be found; None is all, when none is dead.
            originals: Where vectors are not whole in RAM.
        """
        ready = [self._ready(probe) for probe in probes]
        with kernels.threads(self.threads):
            rows, exact = self._choose(ready, k, mask)
            return self._score(ready, rows, exact, originals)

    def _ready(self, probe: Probe) -> Ready:
        if probe.source is None and self.head is not None:
            raise InvalidInputError(
                "probe.source", "what the vector was made from: the head projects each modality in"
                " its own way", "None",
            )  # fmt: skip
        source = probe.source or probe.modality
        given = probe.vector[np.newaxis]
        vectors = self.compared(given, source)
        hashes = self._hashes(given, vectors, source)
        return Ready(probe.modality, vectors[0], probe.weight, probe.source, hashes)

    def _hashes(
        self, embeddings: Embeddings, vectors: Embeddings, modality: Modality
    ) -> Hashes | None:
        """Return the binary codes of embeddings, which are compared as vectors, or None."""
        if self.kind is not IndexKind.HASH or not len(embeddings):
            return None
        if self.planes is not None:
            return self.planes.codes(vectors, modality)
        assert self.head is not None
        return self.head.codes(embeddings, modality)

    def _choose(self, probes: Sequence[Ready], k: int, mask: Mask | None) -> tuple[Rows, bool]:
        """Return rows to score, and whether the best are surely among them."""
        count = self.columns.rows if mask is None else int(np.count_nonzero(mask))
        scans = list(self._scans([probe for probe in probes if probe.weight > 0]))
        if scans and self._proposing(scans, k, count):
            return self.cut(scans, self.propose(scans, k, mask, count), k)[0], False
        eligible = None if mask is None else np.flatnonzero(mask).astype(np.int64)
        if not scans or count <= max(k, _SCORED_DIRECTLY):
            rows = np.arange(count, dtype=np.int64) if eligible is None else eligible
            return (rows if scans else rows[:k]), True
        if self._alone_and_few(scans, k, count) and eligible is None:
            nearest = self._nearest(scans[0], k)
            if nearest is not None:
                return nearest, True
        return self.cut(scans, eligible, k)

    def _proposing(self, scans: Sequence[_Scan], k: int, count: int) -> bool:
        halves = [self.halves[scan.modality] for scan in scans]
        compared = _COMPARED_WHOLE if halves[0].vectors.whole else _COMPARED_BYTES
        return (
            all(half.codes is not None for half in halves)
            and count > max(compared, k, _SCORED_DIRECTLY)
            and k <= count * _WORTH_RANKING
        )

    def _alone_and_few(self, scans: Sequence[_Scan], k: int, count: int) -> bool:
        return len(scans) == 1 and k <= count * _WORTH_RANKING

    def propose(
        self,
        scans: Sequence[_Scan],
        k: int,
        mask: Mask | None,
        count: int,
        effort: Effort | None = None,
    ) -> Rows:
        """Return rows that the codes find promising, ascending, at least ``min(k, count)``.

        Args:
            scans: What to compare.
            k: How many are wanted in the end.
            mask: Rows that may be proposed.
            count: How many those are.
            effort: How hard to look; None is what each direction was tuned to.
        """
        selection = None if mask is None else Selection(mask)
        share = count / self.columns.rows
        found: list[NDArray[np.int64]] = []
        for scan in scans:
            tuned = effort or self._effort(scan, pair=len({s.modality for s in scans}) > 1)
            # Where few pass, as many of them are looked at as of all otherwise.
            wanted = Effort(math.ceil(tuned.probes / share), max(tuned.depth, 4 * k))
            found.append(self._proposed(scan, wanted, k, mask, selection))
        ascending: Rows = np.sort(found[0]) if len(found) == 1 else np.unique(np.concatenate(found))
        return ascending

    def _proposed(
        self, scan: _Scan, wanted: Effort, k: int, mask: Mask | None, selection: Selection | None
    ) -> Rows:
        codes = self.halves[scan.modality].codes
        assert codes is not None
        if isinstance(codes, HashCodes):
            assert scan.hashes is not None
            return codes.propose(scan.hashes, wanted.depth, selection)
        rows = codes.propose(scan.query, wanted, selection)
        if len(rows) < k:
            rows = codes.propose(scan.query, Effort(codes.lists, wanted.depth), selection)
        if len(rows) < k:  # codes of vectors that are all alike tell nothing
            rows = np.arange(self.columns.rows) if mask is None else np.flatnonzero(mask)
        return rows

    def try_out(
        self, probes: Sequence[Ready], k: int, effort: Effort, without: slice
    ) -> NDArray[np.float32]:
        """Return the scores, in float32, of what an effort finds; for tuning.

        Args:
            probes: What is asked.
            k: How many are wanted.
            effort: How hard to look.
            without: Rows that are left out.
        """
        with kernels.threads(self.threads):
            scans = list(self._scans(probes))
            mask = self.columns.alive if self.columns.dead else None
            rows = self.propose(scans, k, mask, len(self), effort)
            rows, _ = self.cut(scans, rows[(rows < without.start) | (rows >= without.stop)], k)
            scores = np.zeros(len(rows), dtype=np.float32)
            for scan in scans:
                values = self.halves[scan.modality].vectors.values(scan.query, rows)
                scores += np.float32(scan.weight) * self._to_scores(values)
            largest = max(probe.weight for probe in probes)
            return scores * np.float32(largest)

    def _effort(self, scan: _Scan, *, pair: bool) -> Effort:
        sources = set(scan.sources)
        known: set[Modality] = {s for s in sources if s is not None}
        if None in sources:
            known = set(Modality)
        tuned = [
            self.efforts.get(Direction(source, scan.modality, pair), _UNSEEN) for source in known
        ]
        return Effort(max(e.probes for e in tuned), max(e.depth for e in tuned))

    def _nearest(self, scan: _Scan, k: int) -> Rows | None:
        """Return all rows whose exact score may be among the k best, or None if that may be many.

        One pass in which FAISS keeps the best itself.
        """
        half = self.halves[scan.modality]
        if not isinstance(half.vectors, WholeVectors):
            return None
        depth = min(k + _MORE_THAN_ASKED, len(half.vectors))
        values, rows = half.vectors.nearest(scan.query, depth)
        scores = self._to_scores(values)
        tolerance = self._tolerance(scan)
        lowest = tolerance.lowest(float(np.partition(scores, -k)[-k]))
        # Each block gave its best; one whose worst still reaches the limit may hold more.
        beyond = np.partition(scores, -depth)[-depth] >= lowest and depth < len(half.vectors)
        return None if beyond else np.sort(rows[scores >= lowest])

    def cut(self, scans: Sequence[_Scan], rows: Rows | None, k: int) -> tuple[Rows, bool]:
        """Return those rows whose exact score may be among the k best of them, ascending.

        Args:
            scans: What to compare.
            rows: Ascending, more than k; None is all.
            k: How many are wanted.

        Returns:
            The rows, and whether they are surely all: not where vectors are not whole.
        """
        count = self.columns.rows if rows is None else len(rows)
        scores = np.zeros(count, dtype=np.float32)
        relative = absolute = variance = 0.0
        for scan in scans:
            vectors = self.halves[scan.modality].vectors
            scores += np.float32(scan.weight) * self._to_scores(vectors.values(scan.query, rows))
            variance += (scan.weight * vectors.deviation(scan.query)) ** 2
            tolerance = self._tolerance(scan)
            relative = tolerance.relative
            absolute += scan.weight * tolerance.absolute
        whole = all(self.halves[scan.modality].vectors.whole for scan in scans)
        kept = np.arange(count)
        if count > k and whole:
            kth_best = float(np.partition(scores, -k)[-k])
            kept = np.flatnonzero(scores >= Tolerance(relative, absolute).lowest(kth_best))
        elif count > k:
            # Each of these is read from the disk, so as few as will do.
            most = min(2 * k + _MORE_THAN_ASKED, count)
            kept = np.argpartition(scores, count - most)[count - most :]
            lowest = np.partition(scores[kept], -k)[-k] - _DEVIATIONS * math.sqrt(variance)
            kept = np.sort(kept[scores[kept] >= lowest])
        return (kept if rows is None else rows[kept]), whole

    def _to_scores(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.similarity is Similarity.NEGATIVE_L2:
            scores: NDArray[np.float32] = -np.sqrt(np.maximum(values, 0))
            return scores
        return values

    def _tolerance(self, scan: _Scan) -> Tolerance:
        if self.similarity is Similarity.NEGATIVE_L2:
            return Tolerance.of_distances(self.width)
        return Tolerance.of_dots(self.width, scan.length * self.halves[scan.modality].longest)

    def _scans(self, active: Sequence[Ready]) -> Iterator[_Scan]:
        """Yield what is compared.

        Dot products are linear in the query, so the probes of one half become one. Weights are
        taken relative to the largest, which keeps their products in the range of float32.
        """
        largest = max((probe.weight for probe in active), default=1.0)
        if self.similarity is Similarity.NEGATIVE_L2:
            for p in active:
                yield _Scan(
                    p.modality, p.vector, 0.0, p.weight / largest, frozenset({p.source}), p.hashes
                )
            return
        for modality in Modality:
            of_half = [probe for probe in active if probe.modality is modality]
            if len(of_half) == 1 and of_half[0].weight == largest:
                (only,) = of_half
                length = math.sqrt(float(only.vector @ only.vector)) * _ROUNDED_UP
                yield _Scan(
                    modality, only.vector, length, 1.0, frozenset({only.source}), only.hashes
                )
                continue
            parts = [(p.weight / largest) * p.vector.astype(np.float64) for p in of_half]
            if parts:
                length = sum(float(np.linalg.norm(part)) for part in parts)
                sources = frozenset(probe.source for probe in of_half)
                query = np.sum(parts, axis=0).astype(np.float32)
                # Each part proposes for itself: a code of their sum would not be a head's.
                codes = [p.hashes for p in of_half if p.hashes is not None]
                hashes = np.concatenate(codes) if codes else None
                yield _Scan(modality, query, length, 1.0, sources, hashes)

    def _score(
        self, probes: Sequence[Probe], rows: Rows, exact: bool, originals: Originals
    ) -> Scores:
        """Score rows exactly."""
        vectors: dict[Modality, Embeddings] = {}
        for modality in {probe.modality for probe in probes}:
            rows, vectors[modality] = self._vectors(modality, rows, originals)
        total = np.zeros(len(rows))
        halves = []
        for modality in Modality:
            parts = [probe for probe in probes if probe.modality is modality]
            found = [similarities(self.similarity, p.vector, vectors[modality]) for p in parts]
            weighted = sum(
                (p.weight * f for p, f in zip(parts, found, strict=True)), np.zeros(len(rows))
            )
            total = total + weighted
            none = np.full(len(rows), np.nan)
            halves.append(none if not found else found[0] if len(found) == 1 else weighted)
        return Scores(self.columns.entry_ids[rows], total, halves[0], halves[1], exact)

    def _vectors(
        self, modality: Modality, rows: Rows, originals: Originals
    ) -> tuple[Rows, Embeddings]:
        vectors = self.halves[modality].vectors
        if vectors.whole:
            return rows, vectors.take(rows)
        return originals(modality, rows)
