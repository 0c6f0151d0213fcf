"""Search against brute force."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import Memory, MemoryOptions
from vla_retrieval.types import (
    CameraPose,
    Embeddings,
    Filter,
    Modality,
    Nearby,
    NewEntry,
    Outcome,
    Probe,
    Similarity,
)

from .conftest import DIM, OpenMemory
from .oracle import BruteForce, assert_same, fingerprint, unit, unit_vectors

SCENE, INSTRUCTION = Modality.SCENE, Modality.INSTRUCTION
COUNT, CLUSTERS, WIDE = 1200, 12, 64
KINDS = [  # of similarity, and whether embeddings have unit length
    (Similarity.COSINE, True), (Similarity.COSINE, False), (Similarity.DOT, False),
    (Similarity.NEGATIVE_L2, False),
]  # fmt: skip


def clustered(seed: int, *, normalized: bool) -> Embeddings:
    """Return clusters with exact copies, and copies that differ by less than FAISS can tell."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((CLUSTERS, WIDE)))
    vectors = centres[rng.integers(CLUSTERS, size=COUNT)].astype(np.float64)
    spread = rng.choice([0.0, 1e-7, 1e-4, 0.3], size=(COUNT, 1))
    vectors = vectors + spread * rng.standard_normal((COUNT, WIDE)) / math.sqrt(WIDE)
    if normalized:
        return unit(vectors)
    return (vectors * rng.uniform(0.1, 30, size=(COUNT, 1))).astype(np.float32)


UPRIGHT = (0.0, 0.0, 0.0, 1.0)
TAGS = {"even": 2, "third": 3, "rare": 400}


def varied(count: int) -> list[NewEntry]:
    return [
        NewEntry(
            f"do {n}",
            stamp_ns=1000 + n // 2,
            frame_id=("left", "right", "")[n % 3],
            episode_id=f"episode {n // 100}",
            outcome=Outcome(n % 3),
            tags=tuple(tag for tag, every in TAGS.items() if n % every == 0),
            metadata={"tens": str(n % 10), "kind": "a" if n % 7 else "b"},
            camera_pose=CameraPose(("map", "odom")[n % 2], 0, (float(n), 0.0, 0.0), UPRIGHT)
            if n % 5
            else None,
        )
        for n in range(count)
    ]  # fmt: skip


FILTERS = {
    "none": Filter(),
    "time": Filter(stamp_from_ns=1100, stamp_to_ns=1399),
    "open time": Filter(stamp_from_ns=1599),
    "one stamp": Filter(stamp_from_ns=1005, stamp_to_ns=1005),
    "beyond time": Filter(stamp_from_ns=-(2**70), stamp_to_ns=2**70),
    "episodes": Filter(episode_ids=("episode 3", "episode 11", "none such")),
    "outcomes": Filter(outcomes=(Outcome.SUCCESS, Outcome.FAILURE)),
    "frames": Filter(frame_ids=("right", "")),
    "one tag": Filter(tags=("rare",)),
    "all of two tags": Filter(tags=("even", "third")),
    "one key": Filter(metadata={"tens": "4"}),
    "two keys": Filter(metadata={"tens": "4", "kind": "b"}),
    "key with the value of another": Filter(metadata={"kind": "4"}),
    "excluded": Filter(exclude_ids=(1, 2, 3, 10**30, -5)),
    "thousands excluded": Filter(exclude_ids=tuple(range(1, 40_000, 2))),
    "near": Filter(near=Nearby((700.0, 0.0, 3.0), 200.0, "map")),
    "nothing passes": Filter(tags=("no such tag",)),
    "everything at once": Filter(
        stamp_from_ns=1001, stamp_to_ns=1500, episode_ids=("episode 1", "episode 2"),
        outcomes=(Outcome.UNKNOWN,), frame_ids=("left",), tags=("even",),
        metadata={"kind": "a"}, exclude_ids=(103,),
    ),
}  # fmt: skip


class Searched:
    """One memory and its oracle, for all searches of a module."""

    def __init__(self, memory: Memory, similarity: Similarity, *, normalized: bool) -> None:
        self.memory, self.similarity = memory, similarity
        self.normalized = normalized
        self.brute_force = BruteForce()
        self.scenes = clustered(1, normalized=normalized)
        self.instructions = clustered(2, normalized=normalized)
        for keep in (memory, self.brute_force):
            keep.add(varied(COUNT), self.scenes, self.instructions)
            keep.remove(range(5, COUNT, 9))

    def query(self, seed: int) -> Embeddings:
        """Return a stored vector for even seeds, and one of another cluster for odd ones."""
        source = (self.scenes, self.instructions)[seed // 2 % 2]
        if seed % 2 == 0:
            return source[seed * 37 % COUNT]
        return clustered(seed, normalized=self.normalized)[0]

    def check(self, probes: list[Probe], k: int, wanted: Filter = Filter()) -> None:  # noqa: B008  (immutable)
        found = self.memory.search(probes, k, filter=wanted)
        expected = self.brute_force.search(self.similarity, probes, k, wanted)
        assert_same(found, expected)
        assert len(found.candidates) == min(k, found.eligible_size)


@pytest.fixture(
    scope="module", params=KINDS,
    ids=lambda p: f"{p[0].value} {'unit' if p[1] else 'raw'}",
)  # fmt: skip
def searched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Searched]:
    similarity, normalized = request.param
    stored_as = fingerprint(WIDE, normalized=normalized)
    directory = tmp_path_factory.mktemp("memory")
    with Memory.open(directory, stored_as, similarity, durable=False) as memory:
        yield Searched(memory, similarity, normalized=normalized)


def ways_to_ask(query: Embeddings, other: Embeddings) -> dict[str, list[Probe]]:
    return {
        "scenes": [Probe(SCENE, query)],
        "instructions": [Probe(INSTRUCTION, query)],
        "lightly weighted": [Probe(SCENE, query, 1e-30)],
        "pair": [Probe(SCENE, query, 0.5), Probe(INSTRUCTION, other, 0.5)],
        "uneven pair": [Probe(SCENE, query, 0.9), Probe(INSTRUCTION, other, 0.1)],
        "pair of one weight": [Probe(SCENE, query, 0.0), Probe(INSTRUCTION, other, 1.0)],
        "pair of no weight": [Probe(SCENE, query, 0.0), Probe(INSTRUCTION, other, 0.0)],
        "fused against scenes": [Probe(SCENE, query, 0.3), Probe(SCENE, other, 0.7)],
        "fused against instructions": [
            Probe(INSTRUCTION, query, 0.75), Probe(INSTRUCTION, other, 0.25),
        ],
        "fused with its opposite": [Probe(SCENE, query, 0.5), Probe(SCENE, -query, 0.5)],
        "all four": [
            Probe(m, v, w) for m, v, w in zip(
                (SCENE, INSTRUCTION) * 2, (query, query, other, other), (0.1, 0.2, 0.3, 0.4),
                strict=True,
            )
        ],
    }  # fmt: skip


@pytest.mark.usefixtures("way_of_scoring")
@pytest.mark.parametrize("way", ways_to_ask(*unit_vectors(2, WIDE, 0)))
def test_every_target_equals_brute_force(searched: Searched, way: str) -> None:
    for seed in range(4):
        probes = ways_to_ask(searched.query(seed), searched.query(seed + 3))[way]
        for k in (1, 7, 4 * 10**9):
            searched.check(probes, k)


@pytest.mark.usefixtures("way_of_scoring")
@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_equals_brute_force_over_what_passes(searched: Searched, name: str) -> None:
    for seed in range(2):
        ways = ways_to_ask(searched.query(seed), searched.query(seed + 3))
        for way in ("scenes", "pair", "fused against instructions"):
            for k in (10, COUNT):
                searched.check(ways[way], k, FILTERS[name])


def test_every_filter_equals_brute_force_where_dead_rows_were_dropped(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(fingerprint=fingerprint(WIDE))
    searched = Searched(memory, Similarity.COSINE, normalized=True)
    memory.compact()
    assert memory.stats().index.dead_rows == 0
    for wanted in FILTERS.values():
        searched.check([Probe(SCENE, searched.query(1))], COUNT, wanted)


@pytest.mark.parametrize("similarity", Similarity)
def test_what_float32_cannot_tell_apart_is_ranked_exactly(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, similarity: Similarity
) -> None:
    """However long the vectors are, and also once a short one came."""
    monkeypatch.setattr("vla_retrieval.memory.index._SCORED_DIRECTLY", 0)
    memory = open_memory(fingerprint=fingerprint(WIDE, normalized=False), similarity=similarity)
    brute_force = BruteForce()
    scenes, instructions = (clustered(n, normalized=True) * np.float32(30) for n in (1, 2))
    short = unit_vectors(1, WIDE, 9) * np.float32(1e-3)
    for entries, *halves in ((varied(COUNT), scenes, instructions), (varied(1), short, short)):
        memory.add(entries, *halves)
        brute_force.add(entries, *halves)
        memory.search([Probe(SCENE, scenes[0])], 1)  # puts them into the index
    for seed in range(8):
        scene, instruction = scenes[37 * seed], instructions[41 * seed]
        alone, far = Probe(SCENE, scene), Probe(SCENE, instruction)
        for probes in ([alone], [far], [alone, Probe(INSTRUCTION, instruction)]):
            for k in (1, 7, 40):
                expected = brute_force.search(similarity, probes, k)
                assert_same(memory.search(probes, k), expected)


def test_what_all_but_ties_is_told_apart_after_a_restart_from_the_snapshot(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_retrieval.memory.index._SCORED_DIRECTLY", 0)
    memory = open_memory(fingerprint=fingerprint(WIDE))
    searched = Searched(memory, Similarity.COSINE, normalized=True)
    memory.write_snapshot()
    searched.memory = open_memory(fingerprint=fingerprint(WIDE))
    assert searched.memory.stats().index.opened_from.startswith("the snapshot")
    for seed in range(8):
        for k in (1, 7, 40):
            searched.check([Probe(SCENE, searched.query(seed))], k)


def test_a_score_does_not_depend_on_how_many_are_asked_for(searched: Searched) -> None:
    probes = [Probe(SCENE, searched.query(1), 0.4), Probe(INSTRUCTION, searched.query(2), 0.6)]
    everything = searched.memory.search(probes, COUNT).candidates
    for k in (1, 10, 300):
        assert searched.memory.search(probes, k).candidates == everything[:k]
    one = Filter(stamp_from_ns=1005, stamp_to_ns=1005)
    for candidate in searched.memory.search(probes, 5, filter=one).candidates:
        assert candidate in everything


def test_a_minimum_score_leaves_out_what_is_below(searched: Searched) -> None:
    probes = [Probe(SCENE, searched.query(1), 0.5), Probe(INSTRUCTION, searched.query(2), 0.5)]
    everything = searched.memory.search(probes, COUNT).candidates
    limit = everything[50].score
    found = searched.memory.search(probes, COUNT, min_score=limit).candidates
    assert found == tuple(c for c in everything if c.score >= limit)


@pytest.mark.usefixtures("way_of_scoring")
@pytest.mark.parametrize("similarity", Similarity)
def test_copies_rank_by_lower_id_also_where_k_cuts_them(
    open_memory: OpenMemory, similarity: Similarity
) -> None:
    memory = open_memory(similarity=similarity)
    one, other = unit_vectors(2, DIM, 3)
    copies = np.array([other] * 50 + [one] * 300 + [other] * 50)
    memory.add(varied(400), copies, copies)
    memory.remove([51, 60])
    expected = [i for i in range(51, 351) if i not in (51, 60)]
    for k in (1, 2, 17, 298):
        for probes in ([Probe(SCENE, one)], [Probe(SCENE, one, 0.5), Probe(INSTRUCTION, one, 0.5)]):
            found = memory.search(probes, k)
            assert [c.entry_id for c in found.candidates] == expected[:k]
            assert len({c.score for c in found.candidates}) == 1


def test_the_similarities_are_what_they_say(open_memory: OpenMemory) -> None:
    raw = fingerprint(2, normalized=False)
    stored = np.array([[3.0, 4.0]], dtype=np.float32)
    query = np.array([6.0, 0.0], dtype=np.float32)
    expected = {
        Similarity.COSINE: 0.6, Similarity.DOT: 18.0, Similarity.NEGATIVE_L2: -5.0,
    }  # fmt: skip
    open_memory(fingerprint=raw).add([NewEntry("a", 0)], stored, stored)
    for similarity, score in expected.items():
        memory = open_memory(fingerprint=raw, similarity=similarity)
        (found,) = memory.search([Probe(SCENE, query)], 1).candidates
        assert found.score == found.scene_score == pytest.approx(score, rel=1e-7)
        assert math.isnan(found.instruction_score)


def test_a_scene_finds_itself_with_cosine_one(memory: Memory) -> None:
    vectors = unit_vectors(20, DIM, 5)
    memory.add(varied(20), vectors, vectors[::-1].copy())
    for row in range(20):
        best = memory.search([Probe(SCENE, vectors[row])], 1).candidates[0]
        assert best.entry_id == row + 1
        assert best.score == pytest.approx(1.0, abs=1e-12)
        assert best.score <= 1.0


@pytest.mark.parametrize(
    "options", [MemoryOptions(), MemoryOptions(max_entries=100), MemoryOptions(merge_scene=0.999)],
    ids=["plain", "bounded", "merging"],
)  # fmt: skip
def test_what_was_added_is_found_though_its_caller_uses_the_arrays_again(
    open_memory: OpenMemory, options: MemoryOptions
) -> None:
    """Whoever embeds picture after picture into one array need not wait for a search."""
    memory = open_memory(options=options)
    vectors = unit_vectors(20, DIM, 5)
    scenes, instructions = vectors.copy(), vectors.copy()
    memory.add(varied(20), scenes, instructions)
    scenes[:], instructions[:] = -vectors, -vectors
    for modality in Modality:
        best = memory.search([Probe(modality, vectors[7])], 1).candidates[0]
        assert (best.entry_id, best.score) == (8, pytest.approx(1.0, abs=1e-12))


def test_a_pair_shows_the_unweighted_score_of_each_half(memory: Memory) -> None:
    scene, instruction = unit_vectors(2, DIM, 6)
    memory.add(varied(1), unit_vectors(1, DIM, 7), unit_vectors(1, DIM, 8))
    alone = [memory.search([Probe(m, v)], 1).candidates[0].score for m, v in
             ((SCENE, scene), (INSTRUCTION, instruction))]  # fmt: skip
    for weight in (0.0, 0.3, 1.0):
        probes = [Probe(SCENE, scene, weight), Probe(INSTRUCTION, instruction, 1 - weight)]
        (found,) = memory.search(probes, 1).candidates
        assert [found.scene_score, found.instruction_score] == alone
        assert found.score == weight * alone[0] + (1 - weight) * alone[1]


def test_two_queries_against_one_half_add_up(memory: Memory) -> None:
    image, text = unit_vectors(2, DIM, 6)
    memory.add(varied(1), unit_vectors(1, DIM, 7), unit_vectors(1, DIM, 8))
    alone = [memory.search([Probe(SCENE, v)], 1).candidates[0].score for v in (image, text)]
    (found,) = memory.search([Probe(SCENE, image, 0.3), Probe(SCENE, text, 0.7)], 1).candidates
    assert found.score == found.scene_score == 0.3 * alone[0] + 0.7 * alone[1]
    assert math.isnan(found.instruction_score)


@pytest.mark.usefixtures("way_of_scoring")
@pytest.mark.parametrize("similarity", Similarity)
def test_a_column_of_an_array_asks_as_a_row_does(
    open_memory: OpenMemory, similarity: Similarity
) -> None:
    memory = open_memory(similarity=similarity)
    vectors = unit_vectors(400, DIM, 0)
    memory.add(varied(400), vectors, np.asfortranarray(vectors))
    columns = np.asfortranarray(vectors)
    for probes in ([SCENE], [SCENE, INSTRUCTION]):
        row, column = ([Probe(half, v, 0.5) for half in probes] for v in (vectors[7], columns[7]))
        found = [memory.search(asked, 9).candidates for asked in (row, column)]
        assert len({tuple((c.entry_id, c.score) for c in some) for some in found}) == 1


def test_an_empty_memory_finds_nothing(memory: Memory) -> None:
    for wanted in (Filter(), Filter(tags=("a",)), Filter(exclude_ids=(1,))):
        found = memory.search([Probe(SCENE, unit_vectors(1, DIM, 0)[0])], 10, filter=wanted)
        assert (found.candidates, found.memory_size, found.eligible_size) == ((), 0, 0)


def test_a_memory_may_be_opened_with_another_similarity(open_memory: OpenMemory) -> None:
    raw = fingerprint(2, normalized=False)
    vectors = np.array([[1.0, 0.0], [9.0, 9.0]], dtype=np.float32)
    open_memory(fingerprint=raw).add(varied(2), vectors, vectors)
    first = {
        similarity: open_memory(fingerprint=raw, similarity=similarity)
        .search([Probe(SCENE, np.array([1.0, 0.1], dtype=np.float32))], 1)
        .candidates[0]
        .entry_id
        for similarity in Similarity
    }
    assert first == {Similarity.COSINE: 1, Similarity.DOT: 2, Similarity.NEGATIVE_L2: 1}


def test_strings_in_filters_are_compared_whole(memory: Memory) -> None:
    odd = ["a", "a\0b", "A", "a' OR 1=1 --", "%", "é", "e\u0301"]
    entries = [NewEntry("x", 0, text, text, tags=(text,), metadata={text: text}) for text in odd]
    vectors = unit_vectors(len(odd), DIM, 0)
    memory.add(entries, vectors, vectors)
    for number, text in enumerate(odd, start=1):
        for wanted in (
            Filter(episode_ids=(text,)), Filter(frame_ids=(text,)), Filter(tags=(text,)),
            Filter(metadata={text: text}),
        ):  # fmt: skip
            found = memory.search([Probe(SCENE, vectors[0])], 10, filter=wanted)
            assert [c.entry_id for c in found.candidates] == [number]


def test_where_a_key_ends_and_its_value_begins_is_told_apart(memory: Memory) -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("abc", "")]
    vectors = unit_vectors(len(pairs), DIM, 0)
    memory.add([NewEntry("x", 0, metadata=dict([pair])) for pair in pairs], vectors, vectors)
    for number, pair in enumerate(pairs, start=1):
        found = memory.search([Probe(SCENE, vectors[0])], 10, filter=Filter(metadata=dict([pair])))
        assert [c.entry_id for c in found.candidates] == [number]


def test_a_filter_may_name_thousands_of_values(memory: Memory) -> None:
    entries = [
        NewEntry(f"do {n}", n, episode_id=str(n), tags=tuple(f"t{i}" for i in range(n * 1000)))
        for n in range(3)
    ]
    vectors = unit_vectors(3, DIM, 0)
    memory.add(entries, vectors, vectors)
    probes = [Probe(SCENE, vectors[0])]
    many = Filter(episode_ids=tuple(str(n) for n in range(1, 20_000)), tags=entries[2].tags)
    assert [c.entry_id for c in memory.search(probes, 5, filter=many).candidates] == [3]


GOOD = unit_vectors(1, DIM, 0)[0]


@pytest.mark.parametrize(
    ("probes", "options", "said"),
    [
        ([], {}, r"probes: expected at least one, got none"),
        ([Probe(SCENE, GOOD, math.nan)], {}, r"probes\[0\].weight: .* got nan"),
        ([Probe(SCENE, GOOD), Probe(SCENE, GOOD, -0.1)], {}, r"probes\[1\].weight: .* got -0.1"),
        ([Probe(SCENE, GOOD[np.newaxis])], {}, r"probes\[0\].vector: .* shape \(1, 8\)"),
        ([Probe(SCENE, 0 * GOOD)], {}, r"probes\[0\].vector: .* got length 0"),
        ([Probe(SCENE, GOOD)], {"k": 0}, r"k: expected .* got 0"),
        ([Probe(SCENE, GOOD)], {"min_score": math.nan}, r"min_score: .* nan"),
        ([Probe(SCENE, GOOD)], {"filter": Filter(tags=("\ud800",))}, r"filter.tags: .* Unicode"),
        (
            [Probe(SCENE, GOOD)],
            {"filter": Filter(near=Nearby((0.0, 0.0, 0.0), 1.0, "\ud800"))},
            r"filter.near.header.frame_id: .* Unicode",
        ),
    ],
)
def test_a_bad_search_is_refused_by_name(
    memory: Memory, probes: list[Probe], options: dict[str, object], said: str
) -> None:
    memory.add(varied(1), unit_vectors(1, DIM, 0), unit_vectors(1, DIM, 0))
    with pytest.raises(InvalidInputError, match=said):
        memory.search(probes, **{"k": 5, **options})  # type: ignore[arg-type]  # bad on purpose


def test_a_search_leaves_the_threads_of_its_caller_alone(memory: Memory) -> None:
    import faiss  # here, to keep the test's other parts readable as a user of the memory

    memory.add(varied(400), *[unit_vectors(400, DIM, 0)] * 2)
    seen: list[int] = []

    def work() -> None:
        faiss.omp_set_num_threads(3)
        memory.search([Probe(SCENE, unit_vectors(1, DIM, 0)[0])], 5)
        seen.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [3]
