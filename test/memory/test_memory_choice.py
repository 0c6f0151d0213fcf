"""Which kind of index a memory has, as worked tables."""

from __future__ import annotations

import pytest

from vla_retrieval.memory import MemoryOptions
from vla_retrieval.memory.building import choose, outgrown
from vla_retrieval.memory.halves import Half
from vla_retrieval.memory.index import Index, IndexKind
from vla_retrieval.memory.vectors import ByteVectors
from vla_retrieval.types import Modality, Similarity

from .oracle import unit_vectors

GB = 1 << 30


@pytest.mark.parametrize(
    ("index", "rows", "gigabytes", "expected"),
    [
        ("auto", 0, 4, "exact"),
        ("auto", 50_000, 4, "exact"),
        ("auto", 50_001, 4, "pq"),
        ("auto", 900_000, 4, "pq"),  # 3.9 GB of vectors and codes
        ("auto", 1_000_000, 4, "pq_sq8"),
        ("auto", 1_000_000, 8, "pq"),
        ("auto", 40_000, 0.1, "pq_sq8"),  # 0.17 GB would be whole
        ("auto", 1_999, 0.001, "exact"),  # too few to fit anything to
        ("exact", 5_000_000, 1, "exact"),
        ("pq", 1_999, 4, "exact"),
        ("pq", 2_000, 4, "pq"),
        ("pq", 5_000_000, 1, "pq"),
        ("pq_sq8", 1_999, 4, "exact"),
        ("pq_sq8", 2_000, 4, "pq_sq8"),
        ("hash", 1_999, 4, "exact"),
        ("hash", 2_000, 4, "hash"),
        ("hash", 5_000_000, 1, "hash"),
    ],
)
def test_the_kind_follows_size_and_budget_at_512_dimensions(
    index: str, rows: int, gigabytes: float, expected: str
) -> None:
    options = MemoryOptions(index=index, index_bytes=round(gigabytes * GB))
    assert choose(options, rows, 512) is IndexKind(expected)


class Shaped(Index):
    """An index of so many rows that holds none."""

    rows = 0

    def __len__(self) -> int:
        return self.rows


def shaped(
    kind: str, rows: int, built_rows: int = 0, dead: int = 0, *, bytewise: bool = False
) -> Index:
    index = Shaped.exact(512, Similarity.COSINE)
    if bytewise:
        like = unit_vectors(2, 512, 0)
        index.halves = {m: Half(ByteVectors.fitted(like, squares=False)) for m in Modality}
    index.kind, index.rows, index.built_rows = IndexKind(kind), rows, built_rows or rows
    index.columns = type("Counts", (), {"rows": rows + dead, "dead": dead})()
    return index


@pytest.mark.parametrize(
    ("options", "index", "reason"),
    [
        (MemoryOptions(), shaped("exact", 50_000), ""),
        (MemoryOptions(), shaped("exact", 50_001), "50001 entries are for pq, not exact"),
        (MemoryOptions(), shaped("pq", 49_000), ""),
        (MemoryOptions(), shaped("pq", 24_000, 24_000), "are for exact, not pq"),
        (MemoryOptions(), shaped("pq", 100_000, 99_000), ""),
        (MemoryOptions(), shaped("pq", 160_000, 100_000), "fitted to 100000 entries and there"),
        (MemoryOptions(), shaped("exact", 10_000, dead=1_000), ""),
        (MemoryOptions(), shaped("exact", 10_000, dead=4_000), "4000 of its 14000 rows"),
        (MemoryOptions(), shaped("exact", 100, dead=900), ""),
        (MemoryOptions(index="exact"), shaped("pq", 90_000), "are for exact, not pq"),
        (MemoryOptions(index="pq"), shaped("exact", 2_000), "are for pq, not exact"),
        (MemoryOptions(index="pq"), shaped("pq", 1_999), ""),
        (MemoryOptions(index="pq"), shaped("pq", 999), "are for exact, not pq"),
        (MemoryOptions(index="pq"), shaped("pq_sq8", 9_000), "are for pq, not pq_sq8"),
        (MemoryOptions(), shaped("pq", 1_000_000), "are for pq_sq8, not pq"),
        (MemoryOptions(), shaped("pq_sq8", 900_000), ""),
        (MemoryOptions(), shaped("pq_sq8", 400_000), "are for pq, not pq_sq8"),
        (MemoryOptions(index="hash"), shaped("exact", 2_000), "are for hash, not exact"),
        (MemoryOptions(index="hash"), shaped("hash", 999), "are for exact, not hash"),
        (MemoryOptions(index="hash"), shaped("hash", 970_000), ""),
        (MemoryOptions(index="hash"), shaped("hash", 1_000_000), "1000000 entries are for bytes"),
        (MemoryOptions(index="hash"), shaped("hash", 900_000, bytewise=True), ""),
        (MemoryOptions(index="hash"), shaped("hash", 400_000, bytewise=True), "for whole vectors"),
        (MemoryOptions(index="pq"), shaped("hash", 9_000), "are for pq, not hash"),
    ],
)  # fmt: skip
def test_an_index_is_outgrown_upwards_at_its_limit_and_downwards_only_clearly(
    options: MemoryOptions, index: Index, reason: str
) -> None:
    said = outgrown(index, options)
    assert (reason in said) if reason else said == ""


@pytest.mark.parametrize(
    ("options", "limit"),
    [(MemoryOptions(), 50_000), (MemoryOptions(index="pq"), 2_000), (MemoryOptions(), 910_000)],
)
def test_a_memory_that_lives_at_a_limit_is_not_built_anew_again_and_again(
    options: MemoryOptions, limit: int
) -> None:
    kind, changes = choose(options, limit, 512), 0
    for rows in [limit + step for step in (-9, 9, -9, 9)] + [limit + 60_000, limit - 9] * 2:
        if outgrown(shaped(kind.value, rows), options):
            kind, changes = choose(options, rows, 512), changes + 1
    assert changes <= 1
