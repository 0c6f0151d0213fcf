"""Binary codes that propose, and a memory that is searched by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_retrieval.memory import Memory, MemoryOptions, building, tuning
from vla_retrieval.memory.codes import Selection
from vla_retrieval.memory.hashing import HashCodes, Planes
from vla_retrieval.projection import Head
from vla_retrieval.types import Embeddings, Filter, Modality, NewEntry, Probe, Similarity

from .conftest import OpenMemory
from .heads import Projected, make_head
from .oracle import assert_same, fingerprint, unit, unit_vectors

SCENE, INSTRUCTION = Modality.SCENE, Modality.INSTRUCTION
WIDE, COUNT, WAIT = 32, 300, 60
HEADS: dict[str, Head | None] = {
    "planes": None,
    "planes over a head": make_head(WIDE, 1, width=24),
    "planes over very few dimensions": make_head(WIDE, 5, width=6),
    "head": make_head(WIDE, 2, bits=48),
    "head of fewer dimensions": make_head(WIDE, 3, width=16, bits=64),
}
OPTIONS = MemoryOptions(index="hash", recall_target=0.9)
IN_BYTES = MemoryOptions(index="hash", recall_target=0.9, index_bytes=1)


def pairs(count: int, seed: int) -> tuple[Embeddings, Embeddings]:
    return unit_vectors(count, WIDE, seed), unit_vectors(count, WIDE, seed + 1000)


def entries(count: int) -> list[NewEntry]:
    return [NewEntry(f"do {n}", n, tags=("third",) * (n % 3 == 0)) for n in range(count)]


def queries(seed: int) -> dict[str, list[Probe]]:
    one, other = unit_vectors(2, WIDE, 5000 + seed)
    return {
        "scene to scenes": [Probe(SCENE, one, 1.0, SCENE)],
        "instruction to scenes": [Probe(SCENE, one, 1.0, INSTRUCTION)],
        "pair": [Probe(SCENE, one, 0.3, SCENE), Probe(INSTRUCTION, other, 0.7, INSTRUCTION)],
        "both to scenes": [Probe(SCENE, one, 0.4, SCENE), Probe(SCENE, other, 0.6, INSTRUCTION)],
        "against": [Probe(SCENE, one, 0.5, SCENE), Probe(SCENE, -one, 0.5, SCENE)],
    }


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let codes propose already among dozens."""
    monkeypatch.setattr(building, "FEWEST_TO_FIT", 200)
    monkeypatch.setattr("vla_retrieval.memory.index._SCORED_DIRECTLY", 16)


@pytest.fixture
def all_are_reranked(small_limits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every search propose all rows, as many as there will be."""
    monkeypatch.setattr(tuning, "DEPTHS", (10 * COUNT,))


class Searched:
    """A memory that is searched by codes, and brute force over what its head projects."""

    def __init__(self, memory: Memory, head: Head | None, similarity: Similarity) -> None:
        self.memory, self.similarity = memory, similarity
        self.expected = Projected(head)
        self.add(COUNT, 1)
        assert memory.wait_until_idle(WAIT)
        assert memory.stats().index.kind == "hash"

    def add(self, count: int, seed: int) -> None:
        for keep in (self.memory, self.expected):
            keep.add(entries(count), *pairs(count, seed))

    def remove(self, ids: list[int]) -> None:
        for keep in (self.memory, self.expected):
            keep.remove(ids)

    def check_all(self, k: int = 9) -> None:
        wanted = (Filter(), Filter(tags=("third",)), Filter(exclude_ids=tuple(range(1, 90))))
        for seed, filter_ in enumerate(wanted):
            for probes in queries(seed).values():
                found = self.memory.search(probes, k, filter=filter_)
                assert not found.exact
                assert_same(found, self.expected.search(self.similarity, probes, k, filter_))


@pytest.mark.parametrize(
    ("head", "similarity"),
    [
        *((head, Similarity.COSINE) for head in HEADS),
        ("planes", Similarity.NEGATIVE_L2), ("head", Similarity.NEGATIVE_L2),
        ("head of fewer dimensions", Similarity.DOT),
    ],
)  # fmt: skip
def test_where_all_are_reranked_the_answer_is_brute_force_beside_filters_adds_and_removals(
    all_are_reranked: None, open_memory: OpenMemory, head: str, similarity: Similarity
) -> None:
    memory = open_memory(
        fingerprint=fingerprint(WIDE), head=HEADS[head], similarity=similarity, options=OPTIONS
    )
    searched = Searched(memory, HEADS[head], similarity)
    searched.check_all()
    searched.remove([*range(1, COUNT, 7)])
    searched.add(40, 2)
    searched.check_all()


@pytest.mark.parametrize("head", ["planes", "head"])
def test_where_ram_is_scarce_vectors_are_kept_in_bytes_and_scores_stay_exact(
    small_limits: None, open_memory: OpenMemory, tmp_path: Path, head: str
) -> None:
    sizes: list[int] = []
    for options in (OPTIONS, IN_BYTES):
        memory = open_memory(
            fingerprint=fingerprint(WIDE), head=HEADS[head], options=options,
            directory=tmp_path / str(len(sizes)),
        )  # fmt: skip
        searched = Searched(memory, HEADS[head], Similarity.COSINE)
        sizes.append(memory.stats().index.ram_bytes)
    assert sizes[1] < sizes[0] - COUNT * 2 * 3 * WIDE + 1
    probes = queries(0)["pair"]
    expected = searched.expected.search(Similarity.COSINE, probes, COUNT)
    scores = {c.entry_id: c.score for c in expected.candidates}
    for candidate in memory.search(probes, 9).candidates:
        assert candidate.score == pytest.approx(scores[candidate.entry_id], abs=1e-12)


@pytest.mark.parametrize(
    ("head", "options"),
    [("planes", OPTIONS), ("planes over a head", IN_BYTES), ("head", IN_BYTES), ("head", OPTIONS)],
)
def test_a_snapshot_brings_codes_planes_and_depths_back(
    small_limits: None, open_memory: OpenMemory, head: str, options: MemoryOptions
) -> None:
    memory = open_memory(fingerprint=fingerprint(WIDE), head=HEADS[head], options=options)
    searched = Searched(memory, HEADS[head], Similarity.COSINE)
    searched.remove([5, 6])
    asked = [probes for seed in range(5) for probes in queries(seed).values()]
    before = [memory.search(probes, 9).candidates for probes in asked]
    directions = memory.stats().index.directions
    memory.write_snapshot()
    memory = open_memory(fingerprint=fingerprint(WIDE), head=HEADS[head], options=options)
    assert memory.stats().index.opened_from.startswith("the snapshot")
    assert memory.stats().index.directions == directions
    assert [str(memory.search(probes, 9).candidates) for probes in asked] == [
        str(candidates) for candidates in before
    ]


def test_a_head_with_codes_takes_the_place_of_planes_and_goes_again(
    all_are_reranked: None, open_memory: OpenMemory
) -> None:
    memory = open_memory(fingerprint=fingerprint(WIDE), options=OPTIONS)
    searched = Searched(memory, None, Similarity.COSINE)
    for name in ("head", "planes over a head", "head of fewer dimensions", "planes"):
        memory.use_head(HEADS[name])
        assert memory.wait_until_idle(WAIT)
        searched.expected = Projected(HEADS[name])
        searched.expected.add(entries(COUNT), *pairs(COUNT, 1))
        searched.check_all()


def test_each_direction_has_a_depth_that_was_tuned(
    small_limits: None, open_memory: OpenMemory
) -> None:
    memory = open_memory(fingerprint=fingerprint(WIDE), head=HEADS["head"], options=OPTIONS)
    Searched(memory, HEADS["head"], Similarity.COSINE)
    directions = memory.stats().index.directions
    assert len(directions) == 10
    assert all(d.recall >= OPTIONS.recall_target for d in directions)
    assert {d.depth for d in directions} <= set(tuning.DEPTHS)


@st.composite
def coded(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return stored codes, queries, which rows may be proposed, and a depth."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, rows = draw(st.sampled_from([1, 4, 8, 33, 64])), draw(st.integers(1, 60))
    low = draw(st.booleans())  # few different codes: many rows are equally near
    codes = rng.integers(0, 4 if low else 256, (rows, size), dtype=np.uint8)
    asked = rng.integers(0, 4 if low else 256, (draw(st.integers(1, 3)), size), dtype=np.uint8)
    return codes, asked, rng.random(rows) < draw(st.sampled_from([0.0, 0.3, 1.0])), draw(
        st.integers(1, 70)
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(coded())
def test_the_nearest_codes_are_those_with_the_fewest_bits_apart(
    case: tuple[np.ndarray, np.ndarray, np.ndarray, int],
) -> None:
    codes, asked, mask, depth = case
    kept = HashCodes(8 * codes.shape[1])
    kept.append(codes[: len(codes) // 2])
    kept.append(codes[len(codes) // 2 :])
    for selection, allowed in ((None, np.ones(len(codes), bool)), (Selection(mask), mask)):
        found = kept.propose(asked, depth, selection)
        assert allowed[found].all()
        assert (np.diff(found) > 0).all()
        wanted = min(depth, int(allowed.sum()))
        for query in asked:
            apart = np.unpackbits(codes ^ query, axis=1).sum(axis=1)
            nearest = np.sort(apart[allowed])[:wanted]
            assert (np.sort(apart[found])[:wanted] == nearest).all()
    np.testing.assert_array_equal(HashCodes.from_bytes(kept.to_bytes()).to_bytes(), codes)


def cones(count: int, seed: int) -> dict[Modality, Embeddings]:
    """Return pairs of one meaning in two cones that lie far apart."""
    rng = np.random.default_rng(seed)
    gap = 3 * np.random.default_rng(0).standard_normal(WIDE)
    meaning = rng.standard_normal((count, WIDE))
    noise = 0.3 * rng.standard_normal((2, count, WIDE))
    return {SCENE: unit(meaning + noise[0] + gap), INSTRUCTION: unit(meaning + noise[1] - gap)}


def test_fitted_planes_give_the_two_halves_of_a_pair_codes_that_are_near() -> None:
    planes = Planes.fitted(cones(2000, 1))
    assert planes.bits == WIDE
    asked = cones(200, 2)
    codes = {m: np.unpackbits(planes.codes(asked[m], m), axis=1) for m in Modality}
    apart = (codes[SCENE][:, None] != codes[INSTRUCTION][None]).sum(axis=2)
    own = np.diag(apart)
    others = apart[~np.eye(len(apart), dtype=bool)]
    assert own.mean() < WIDE / 4
    assert others.mean() == pytest.approx(WIDE / 2, abs=1)
    for m in Modality:  # balanced: neither cone shows in the codes
        assert np.abs(codes[m].mean(axis=0) - 0.5).max() < 0.2


@pytest.mark.parametrize("width", [1, 7, 8, 20])
def test_planes_are_as_many_as_dimensions_in_whole_bytes(width: int) -> None:
    planes = Planes.fitted({m: unit_vectors(500, width, 1) for m in Modality})
    assert planes.codes(unit_vectors(3, width, 2), SCENE).shape == (3, planes.bits // 8)
    assert planes.bits == max(8, width // 8 * 8)
