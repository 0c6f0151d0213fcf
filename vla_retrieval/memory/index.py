"""The index: both halves of the entries and their filter columns, derived from SQLite, in RAM.

There are four kinds. ``EXACT`` compares a query with every row. ``PQ`` lets short codes propose
rows and compares those. ``PQ_SQ8`` is the same with 8 bits per number in RAM; the few rows that
remain are compared with their embeddings on disk. ``HASH`` lets binary codes propose, of a head
that was trained to make them or fitted here, and holds vectors like either of the two. In each
kind the scores that come out are computed in float64 from the embeddings as they were stored,
projected where there is a head. Where the options say so, whole vectors are mapped from files.

What is compared are the embeddings, or what a learned head makes of them: the head is part of
the index, so that a query is always projected by the head that projected what it is compared with.

Not safe for concurrent use: the memory holds its lock around every call.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import kernels
from vla_retrieval.memory.codes import Selection
from vla_retrieval.memory.columns import Columns, Facts, Mask, Rows
from vla_retrieval.memory.comparing import Comparison
from vla_retrieval.memory.halves import Half, Ready, Scan, scans_of
from vla_retrieval.memory.hashing import HashCodes, Planes
from vla_retrieval.memory.similarity import prepared, similarities
from vla_retrieval.memory.vectors import WholeVectors
from vla_retrieval.projection import Codes as Hashes
from vla_retrieval.projection import Head
from vla_retrieval.types import Embeddings, Modality, Probe, Similarity

_SCORED_DIRECTLY = 256
"""Up to this many eligible rows are scored in float64 at once: about 0.2 ms at 512 dimensions."""

_WORTH_RANKING = 1 / 8
"""FAISS picks up to this share of the rows; from there on numpy's partition is no slower."""

_COMPARED_AT_ONCE = 1 / 80
"""Up to this share of the rows are all compared, where codes would propose some: looking at the
codes of all, and at who may be proposed, takes as long."""

_UNPACKED_AT_ONCE = 1 / 400
"""The same where vectors are in bytes, which have to be unpacked first."""

_FILTERED_AFTERWARDS = 1 / 4
"""From this share of rows that pass a filter on, codes propose some more of all rows, and those
that pass are taken: FAISS asks a selection about each row that it considers, which takes longer."""

_SPARE = 1.3
"""Times as many rows are proposed then as should be enough if the filter had nothing to do with the
query. Where they are not enough, FAISS is asked again with the selection."""

_ROWS_A_PROPOSAL, _PROPOSED_OF_FEW = 2_000, 250
"""With a filter, at least one row in so many is proposed, and so many times the share that does not
pass. Depths are tuned without filters, and the best of a part lie farther from a query, where codes
tell less apart: of the ten best of a tenth, 64 proposals found 0.96 at 100 000 rows and 0.9 at a
million; 225 and 500 find 0.99."""

_UNSEEN = 512
"""Rows that are proposed for a direction that was not tuned."""

Originals = Callable[[Modality, Rows], tuple[Rows, Embeddings]]
"""Reads stored embeddings of rows: those rows that are still there, and shape ``(n, dim)``."""


class IndexKind(enum.Enum):
    """How the index finds entries."""

    EXACT = "exact"
    PQ = "pq"
    PQ_SQ8 = "pq_sq8"
    HASH = "hash"


class Direction(NamedTuple):
    """Who asks for what; how many rows are proposed is tuned for each.

    Attributes:
        source: What the query's vector was made from.
        target: The half that it is compared with.
        beside: What asks for the other half in the same query, or None where nothing does. An
            image alone may ask for both halves of a pair.
    """

    source: Modality
    target: Modality
    beside: Modality | None = None


class Addition(NamedTuple):
    """Entries that were committed and are to be in the index.

    Attributes:
        entry_ids: Ascending, all above those already there.
        facts: Of the entries.
        scenes: Shape ``(n, dim)``, as the encoder made them.
        instructions: Shape ``(n, dim)``, as the encoder made them.
    """

    entry_ids: Sequence[int]
    facts: Sequence[Facts]
    scenes: Embeddings
    instructions: Embeddings

    @classmethod
    def joined(cls, parts: Sequence[Addition]) -> Addition:
        """Return several, in their order, as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            [entry_id for part in parts for entry_id in part.entry_ids],
            [facts for part in parts for facts in part.facts],
            np.concatenate([part.scenes for part in parts]),
            np.concatenate([part.instructions for part in parts]),
        )


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


class _Among:
    """The rows that pass a filter.

    Attributes:
        mask: Which.
        share: How many of all they are.
    """

    def __init__(self, mask: Mask, share: float) -> None:
        self.mask = mask
        self.share = share

    @cached_property
    def selection(self) -> Selection:
        """As FAISS wants them."""
        return Selection(self.mask)


@dataclass
class Index:
    """Finds the best entries for any probes.

    Attributes:
        dim: Length of an embedding as it is added.
        similarity: How vectors are compared.
        kind: How entries are found.
        halves: Their vectors.
        columns: Their entries.
        depths: How many rows are proposed in each direction; without codes, none.
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
    depths: dict[Direction, int] = field(default_factory=dict)
    recalls: dict[Direction, float] = field(default_factory=dict)
    threads: int = 1
    built_rows: int = 0
    head: Head | None = None
    planes: Planes | None = None

    @classmethod
    def exact(
        cls,
        dim: int,
        similarity: Similarity,
        threads: int = 1,
        head: Head | None = None,
        vectors_in: Path | None = None,
    ) -> Index:
        """Return an empty index that compares everything."""
        squares = similarity is Similarity.NEGATIVE_L2
        width = dim if head is None else head.dim
        halves = {
            m: Half(WholeVectors(width, squares=squares, folder=vectors_in)) for m in Modality
        }
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

    def add(self, addition: Addition) -> None:
        """Append entries."""
        halves = addition.scenes, addition.instructions
        with kernels.threads(self.threads):
            for modality, added in zip(Modality, halves, strict=True):
                vectors = self.compared(added, modality)
                self.halves[modality].append(vectors, self._hashes(added, vectors, modality))
        self.columns.append(addition.entry_ids, addition.facts)

    def settle(self) -> None:
        """Give each row its code."""
        with kernels.threads(self.threads):
            for half in self.halves.values():
                half.settle()

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
        given = np.ascontiguousarray(probe.vector)[np.newaxis]  # FAISS takes no strides
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
        scans = scans_of(self.similarity, [probe for probe in probes if probe.weight > 0])
        if scans and self._proposing(scans, k, count):
            return self._comparison.cut(scans, self.propose(scans, k, mask, count), k)[0], False
        eligible = None if mask is None else np.flatnonzero(mask).astype(np.int64)
        if not scans or count <= max(k, _SCORED_DIRECTLY):
            rows = np.arange(count, dtype=np.int64) if eligible is None else eligible
            return (rows if scans else rows[:k]), True
        if eligible is None and len(scans) == 1 and k <= count * _WORTH_RANKING:
            nearest = self._comparison.nearest(scans[0], k)
            if nearest is not None:
                return nearest, True
        return self._comparison.cut(scans, eligible, k)

    @property
    def _comparison(self) -> Comparison:
        return Comparison(self.similarity, self.width, self.halves)

    def _proposing(self, scans: Sequence[Scan], k: int, count: int) -> bool:
        at_once = _COMPARED_AT_ONCE if self.whole else _UNPACKED_AT_ONCE
        return (
            all(self.halves[scan.modality].codes is not None for scan in scans)
            and count > max(self.columns.rows * at_once, k, _SCORED_DIRECTLY)
            and k <= count * _WORTH_RANKING
        )

    def propose(
        self,
        scans: Sequence[Scan],
        k: int,
        mask: Mask | None,
        count: int,
        depth: int | None = None,
    ) -> Rows:
        """Return rows that the codes find promising, ascending, at least ``min(k, count)``.

        Args:
            scans: What to compare.
            k: How many are wanted in the end.
            mask: Rows that may be proposed.
            count: How many those are.
            depth: Rows to propose; None is what each direction was tuned to.
        """
        among = None if mask is None else _Among(mask, count / self.columns.rows)
        found = []
        for scan in scans:
            wanted = max(depth or self._depth(scan, scans), 4 * k)
            found.append(self._proposed(scan, min(wanted, count), among))
        if len(found) == 1:
            (ascending,) = found
            ascending.sort()
        else:
            ascending = np.unique(np.concatenate(found))
        if self.halves[Modality.SCENE].coded < self.columns.rows:
            ascending = np.append(ascending, self._uncoded(mask))
        if len(ascending) < min(k, count):  # codes of vectors that are all alike tell nothing
            return np.arange(self.columns.rows) if mask is None else np.flatnonzero(mask)
        return ascending

    def _uncoded(self, mask: Mask | None) -> Rows:
        """Return the last rows, which have no codes yet: all of them are compared."""
        rows = np.arange(self.halves[Modality.SCENE].coded, self.columns.rows, dtype=np.int64)
        return rows if mask is None else rows[mask[rows]]

    def _proposed(self, scan: Scan, depth: int, among: _Among | None) -> Rows:
        if among is None:
            return self._best_codes(scan, depth, None)
        count = round(among.share * self.columns.rows)
        of_few = round(_PROPOSED_OF_FEW * (1 - among.share))
        depth = max(depth, min(max(self.columns.rows // _ROWS_A_PROPOSAL, of_few), count))
        if among.share >= _FILTERED_AFTERWARDS:
            # The best of all, as far as they pass, are the best of those that pass: if they are
            # enough, nothing was missed.
            more = math.ceil(_SPARE * depth / among.share)
            best = self._best_codes(scan, more, None)
            passing = best[among.mask[best]]
            if len(passing) >= depth:
                return passing
        return self._best_codes(scan, depth, among.selection)

    def _best_codes(self, scan: Scan, depth: int, selection: Selection | None) -> Rows:
        codes = self.halves[scan.modality].codes
        assert codes is not None
        if isinstance(codes, HashCodes):
            assert scan.hashes is not None
            return codes.propose(scan.hashes, depth, selection)
        return codes.propose(scan.query, depth, selection)

    def try_out(
        self, probes: Sequence[Ready], k: int, depth: int, without: slice
    ) -> NDArray[np.float32]:
        """Return the scores, in float32, of what is found among so many rows; for tuning.

        Args:
            probes: What is asked.
            k: How many are wanted.
            depth: Rows to propose.
            without: Rows that are left out.
        """
        with kernels.threads(self.threads):
            scans = scans_of(self.similarity, probes)
            mask = self.columns.alive if self.columns.dead else None
            rows = self.propose(scans, k, mask, len(self), depth)
            rows = rows[(rows < without.start) | (rows >= without.stop)]
            rows, _ = self._comparison.cut(scans, rows, k)
            largest = max(probe.weight for probe in probes)
            return self._comparison.scores(scans, rows) * np.float32(largest)

    def _depth(self, scan: Scan, scans: Sequence[Scan]) -> int:
        """Return how many rows one of a query's scans has to propose."""
        others = [other for other in scans if other.modality is not scan.modality]
        asking = [source for other in others for source in _sources(other)]
        besides: Sequence[Modality | None] = asking or [None]
        return max(
            self.depths.get(Direction(source, scan.modality, beside), _UNSEEN)
            for source in _sources(scan)
            for beside in besides
        )

    def _score(
        self, probes: Sequence[Probe], rows: Rows, exact: bool, originals: Originals
    ) -> Scores:
        """Score rows exactly."""
        if len(probes) == 1:
            return self._score_one(probes[0], rows, exact, originals)
        vectors: dict[Modality, Embeddings] = {}
        for modality in {probe.modality for probe in probes}:
            rows, vectors[modality] = self._vectors(modality, rows, originals)
        total = np.zeros(len(rows))
        halves = []
        for modality in Modality:
            parts = [probe for probe in probes if probe.modality is modality]
            if not parts:
                halves.append(np.full(len(rows), np.nan))
                continue
            found = [similarities(self.similarity, p.vector, vectors[modality]) for p in parts]
            weighted = parts[0].weight * found[0]
            for probe, values in zip(parts[1:], found[1:], strict=True):
                weighted = weighted + probe.weight * values
            total = total + weighted
            halves.append(found[0] if len(found) == 1 else weighted)
        return Scores(self.columns.entry_ids[rows], total, halves[0], halves[1], exact)

    def _score_one(self, probe: Probe, rows: Rows, exact: bool, originals: Originals) -> Scores:
        """Score rows against a single probe, as ``_score`` would, in two thirds of the time."""
        rows, vectors = self._vectors(probe.modality, rows, originals)
        found = similarities(self.similarity, probe.vector, vectors)
        weighted = probe.weight * found + 0.0  # never -0.0
        absent = np.full(len(rows), np.nan)
        of_scenes, of_texts = (
            (found, absent) if probe.modality is Modality.SCENE else (absent, found)
        )
        return Scores(self.columns.entry_ids[rows], weighted, of_scenes, of_texts, exact)

    def _vectors(
        self, modality: Modality, rows: Rows, originals: Originals
    ) -> tuple[Rows, Embeddings]:
        vectors = self.halves[modality].vectors
        if vectors.whole:
            return rows, vectors.take(rows)
        return originals(modality, rows)


def _sources(scan: Scan) -> Collection[Modality]:
    """Return what a scan may have been made from."""
    known = {source for source in scan.sources if source is not None}
    return known if len(known) == len(scan.sources) else tuple(Modality)
