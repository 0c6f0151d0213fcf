"""A memory that compares what a learned head makes of its embeddings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_retrieval.errors import HeadMismatchError, InvalidInputError
from vla_retrieval.memory import Eviction, Memory, MemoryOptions
from vla_retrieval.memory.building import build
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.index import Index
from vla_retrieval.memory.live import LiveIndex
from vla_retrieval.memory.statistics import describe_head
from vla_retrieval.types import Embeddings, Filter, Modality, NewEntry, Probe, Similarity

from .conftest import DIM, OpenMemory
from .heads import LinearHead, Projected, make_head
from .oracle import assert_same, fingerprint, unit_vectors

SCENE, INSTRUCTION = Modality.SCENE, Modality.INSTRUCTION
SIMILARITIES = list(Similarity)
WAIT = 60
HEADS = {
    "none": None,
    "turned": make_head(DIM, 1),
    "turned otherwise": make_head(DIM, 2),
    "fewer dimensions": make_head(DIM, 3, width=4),
}


def pairs(count: int, seed: int) -> tuple[Embeddings, Embeddings]:
    return unit_vectors(count, DIM, seed), unit_vectors(count, DIM, seed + 1000)


def entries(count: int) -> list[NewEntry]:
    return [NewEntry(f"do {n}", n, tags=("even",) * (n % 2 == 0)) for n in range(count)]


def queries(seed: int) -> dict[str, list[Probe]]:
    one, other = unit_vectors(2, DIM, 5000 + seed)
    return {
        "scene to scenes": [Probe(SCENE, one, 1.0, SCENE)],
        "instruction to scenes": [Probe(SCENE, one, 1.0, INSTRUCTION)],
        "scene to instructions": [Probe(INSTRUCTION, one, 1.0, SCENE)],
        "pair": [Probe(SCENE, one, 0.3, SCENE), Probe(INSTRUCTION, other, 0.7, INSTRUCTION)],
        "both to scenes": [Probe(SCENE, one, 0.4, SCENE), Probe(SCENE, other, 0.6, INSTRUCTION)],
    }


class Compared:
    """A memory, and what it should answer with each head."""

    def __init__(self, memory: Memory, similarity: Similarity = Similarity.COSINE) -> None:
        self.memory, self.similarity = memory, similarity
        self.expected = {name: Projected(head) for name, head in HEADS.items()}

    def add(self, count: int, seed: int) -> None:
        ids = self.memory.add(entries(count), *pairs(count, seed))
        for oracle in self.expected.values():
            oracle.next_id = ids[0]
            oracle.add(entries(count), *pairs(count, seed))

    def remove(self, *ids: int) -> None:
        self.memory.remove(ids)
        for oracle in self.expected.values():
            oracle.remove(ids)

    def check(self, head: str, k: int = 7) -> None:
        for seed, wanted in enumerate((Filter(), Filter(tags=("even",)), Filter(exclude_ids=(3,)))):
            for probes in queries(seed).values():
                found = self.memory.search(probes, k, filter=wanted)
                expected = self.expected[head].search(self.similarity, probes, k, wanted)
                assert_same(found, expected)
                assert found.head is HEADS[head]


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda s: s.value)
@pytest.mark.parametrize("head", HEADS)
def test_search_with_a_head_is_brute_force_over_projected_vectors(
    open_memory: OpenMemory, way_of_scoring: str, similarity: Similarity, head: str
) -> None:
    memory = Compared(open_memory(similarity=similarity, head=HEADS[head]), similarity)
    memory.add(60, 0)
    memory.remove(4, 30)
    memory.check(head)


@pytest.mark.parametrize(
    ("kind", "head", "similarity"),
    [
        ("pq", "fewer dimensions", Similarity.COSINE),
        ("pq_sq8", "turned", Similarity.DOT),
        ("pq_sq8", "fewer dimensions", Similarity.NEGATIVE_L2),
    ],
)
def test_what_an_approximate_index_finds_has_the_scores_of_brute_force(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, kind: str, head: str,
    similarity: Similarity,
) -> None:  # fmt: skip
    """Also the last rows of ``pq_sq8``, whose embeddings are read and projected one by one."""
    monkeypatch.setattr("vla_retrieval.memory.building.FEWEST_TO_FIT", 200)
    monkeypatch.setattr("vla_retrieval.memory.index._SCORED_DIRECTLY", 16)
    options = MemoryOptions(index=kind, recall_target=0.9)
    memory = Compared(open_memory(similarity=similarity, options=options), similarity)
    memory.add(500, 0)
    memory.memory.use_head(HEADS[head])
    assert memory.memory.wait_until_idle(WAIT)
    assert memory.memory.stats().index.kind == kind
    memory.remove(*range(1, 500, 7))
    memory.add(20, 3)
    k, recalls = 9, []
    for seed, wanted in product(range(6), (Filter(), Filter(tags=("even",)))):
        for probes in queries(seed).values():
            found = memory.memory.search(probes, k, filter=wanted)
            expected = memory.expected[head].search(similarity, probes, 1000, wanted).candidates
            scores = {candidate.entry_id: candidate.score for candidate in expected}
            assert len(found.candidates) == k
            for candidate in found.candidates:
                assert candidate.score == pytest.approx(scores[candidate.entry_id], abs=1e-12)
            best = {candidate.entry_id for candidate in expected[:k]}
            recalls.append(len(best & {c.entry_id for c in found.candidates}) / k)
    assert np.mean(recalls) >= 0.85


class TestNearDuplicates:
    """What is stored does not depend on the head."""

    OPTIONS = MemoryOptions(merge_scene=0.999, merge_instruction=0.999)

    def test_are_found_though_a_head_draws_many_together(self, open_memory: OpenMemory) -> None:
        collapsing = make_head(DIM, 4, width=1)  # each half becomes 1 or -1
        memory = open_memory(head=collapsing, options=self.OPTIONS)
        scenes, instructions = pairs(30, 0)
        same = [NewEntry("do it", n) for n in range(30)]
        assert memory.add(same, scenes, instructions) == list(range(1, 31))
        again = memory.add_with_report(same, scenes, instructions)
        assert again.merged == (True,) * 30
        assert again.entry_ids == tuple(range(1, 31))

    def test_are_not_made_by_a_head(self, open_memory: OpenMemory) -> None:
        memory = open_memory(head=make_head(DIM, 4, width=1), options=self.OPTIONS)
        scenes, instructions = pairs(30, 0)
        added = memory.add_with_report([NewEntry("do it", 0)] * 30, scenes, instructions)
        assert not any(added.merged)

    @pytest.mark.parametrize("head", ["none", "turned", "fewer dimensions"])
    def test_go_first_where_the_most_redundant_do(self, open_memory: OpenMemory, head: str) -> None:
        options = MemoryOptions(max_entries=10, eviction=Eviction.MOST_REDUNDANT)
        memory = open_memory(head=HEADS[head], options=options)
        scenes, instructions = pairs(10, 0)
        scenes[7], instructions[7] = scenes[2], instructions[2]
        memory.add(entries(10), scenes, instructions)
        (new,) = memory.add(entries(1), *pairs(1, 77))
        assert {3, 8} - set(memory.entry_ids())
        assert new in memory.entry_ids()


def test_embeddings_stay_those_of_the_encoder(open_memory: OpenMemory) -> None:
    memory = open_memory(head=HEADS["fewer dimensions"])
    scenes, instructions = pairs(3, 0)
    memory.add(entries(3), scenes, instructions)
    np.testing.assert_array_equal(memory.embeddings(2), (scenes[1], instructions[1]))
    assert memory.fingerprint == fingerprint(DIM)


def test_vectors_are_what_the_head_makes_of_embeddings(open_memory: OpenMemory) -> None:
    head = make_head(DIM, 3, width=4)
    memory = open_memory(head=head)
    scenes, instructions = pairs(3, 0)
    memory.add(entries(3), scenes, instructions)
    expected = head.project(instructions, INSTRUCTION)[[2, 0]]
    np.testing.assert_allclose(memory.vectors_of([3, 1], INSTRUCTION), expected, atol=1e-7)
    assert memory.compared == replace(fingerprint(DIM), dim=4, head=head.digest)


def test_a_switch_changes_all_answers_and_no_entry(open_memory: OpenMemory) -> None:
    memory = Compared(open_memory())
    memory.add(40, 0)
    for head in ("turned", "fewer dimensions", "none", "turned otherwise"):
        memory.memory.use_head(HEADS[head])
        assert memory.memory.wait_until_idle(WAIT)
        memory.check(head)
        memory.add(5, 7)
        memory.remove(memory.memory.entry_ids()[-2])
        memory.check(head)


def test_while_a_switch_is_under_way_the_old_head_answers_and_entries_come_and_go(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Compared(open_memory(head=HEADS["turned"]))
    memory.add(40, 0)
    building = Stopped(monkeypatch, HEADS["turned otherwise"])
    memory.memory.use_head(HEADS["turned otherwise"])
    assert building.begun.wait(WAIT)
    memory.check("turned")
    memory.add(5, 7)
    memory.remove(1, 42)
    memory.check("turned")
    index = memory.memory.stats().index
    assert index.switching
    assert index.head == describe_head(HEADS["turned"])
    assert index.wanted_head == describe_head(HEADS["turned otherwise"])
    building.go_on.set()
    assert memory.memory.wait_until_idle(WAIT)
    memory.check("turned otherwise")
    assert not memory.memory.stats().index.switching


def test_a_later_switch_takes_the_place_of_one_under_way(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Compared(open_memory())
    memory.add(40, 0)
    building = Stopped(monkeypatch, HEADS["turned"])
    memory.memory.use_head(HEADS["turned"])
    assert building.begun.wait(WAIT)
    memory.memory.use_head(HEADS["fewer dimensions"])
    building.go_on.set()
    assert memory.memory.wait_until_idle(WAIT)
    memory.check("fewer dimensions")


def test_what_is_built_for_a_head_that_is_wanted_no_more_is_given_up(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large index takes minutes, for which the later switch would wait."""
    memory = Compared(open_memory())
    memory.add(40, 0)
    begun, go_on, taken = threading.Event(), threading.Event(), []
    take = LiveIndex.replace

    def stopped(*arguments: Any, **named: Any) -> Index:
        begun.set()
        assert go_on.wait(WAIT)
        return build(*arguments, **named)

    def noted(self: LiveIndex, index: Index) -> None:
        taken.append(describe_head(index.head))
        take(self, index)

    monkeypatch.setattr("vla_retrieval.memory.building.build", stopped)
    monkeypatch.setattr(LiveIndex, "replace", noted)
    memory.memory.use_head(HEADS["turned"])
    assert begun.wait(WAIT)
    memory.memory.use_head(HEADS["fewer dimensions"])
    go_on.set()
    assert memory.memory.wait_until_idle(WAIT)
    assert taken == [describe_head(HEADS["fewer dimensions"])]


def test_a_switch_that_fails_leaves_the_old_head_and_says_why(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Compared(open_memory(head=HEADS["turned"]))
    memory.add(40, 0)
    assert memory.memory.stats().entries == 40  # the old index has them all

    def broken(*_: object) -> Embeddings:
        raise RuntimeError("the head fell off")

    with monkeypatch.context() as patch:
        patch.setattr(LinearHead, "project", broken)
        memory.memory.use_head(HEADS["fewer dimensions"])
        assert memory.memory.wait_until_idle(WAIT)
    assert "the head fell off" in memory.memory.stats().index.last_error
    memory.check("turned")
    memory.add(1, 9)  # the next change tries again
    assert memory.memory.wait_until_idle(WAIT)
    memory.check("fewer dimensions")


def test_no_answer_beside_switches_mixes_two_heads(open_memory: OpenMemory) -> None:
    memory = Compared(open_memory())
    memory.add(200, 0)
    probes = queries(1)["pair"]
    expected = {
        None if head is None else head.digest: memory.expected[name].search(
            Similarity.COSINE, probes, 9
        )
        for name, head in HEADS.items()
    }
    done = threading.Event()

    def ask() -> set[str | None]:
        seen = set()
        while not done.is_set():
            found = memory.memory.search(probes, 9)
            digest = None if found.head is None else found.head.digest
            assert_same(found, expected[digest])
            seen.add(digest)
        return seen

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for head in [*HEADS.values()] * 3:
                memory.memory.use_head(head)
                assert memory.memory.wait_until_idle(WAIT)
        finally:
            done.set()
        assert len(set.union(*(one.result() for one in asking))) > 1


def test_a_memory_that_is_only_read_switches_at_once(open_memory: OpenMemory) -> None:
    memory = Compared(open_memory())
    memory.add(40, 0)
    memory.memory.close()
    memory.memory = open_memory(read_only=True)
    memory.check("none")
    memory.memory.use_head(HEADS["turned"])
    memory.check("turned")


def test_a_head_of_another_encoder_is_refused_with_both_fingerprints(
    open_memory: OpenMemory,
) -> None:
    memory = Compared(open_memory())
    memory.add(5, 0)
    other = replace(make_head(DIM, 1), encoder=fingerprint(DIM, model="another model"))
    with pytest.raises(HeadMismatchError, match=r"expected double .*, got another model "):
        memory.memory.use_head(other)
    memory.check("none")
    with pytest.raises(HeadMismatchError, match="another model"):
        open_memory(head=other)
    open_memory()  # and the directory is free again


def test_a_query_that_does_not_say_what_it_was_made_from_is_refused(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(head=HEADS["turned"])
    memory.add(entries(1), *pairs(1, 0))
    with pytest.raises(InvalidInputError, match=r"probe.source: expected what the vector"):
        memory.search([Probe(SCENE, unit_vectors(1, DIM, 0)[0])], 1)


class TestSnapshot:
    def test_of_the_same_head_is_used(self, open_memory: OpenMemory) -> None:
        memory = Compared(open_memory(head=HEADS["fewer dimensions"]))
        memory.add(40, 0)
        memory.memory.write_snapshot()
        memory.add(3, 5)
        memory.memory = open_memory(head=make_head(DIM, 3, width=4))
        assert memory.memory.stats().index.opened_from.startswith("the snapshot")
        found = memory.memory.search(queries(0)["pair"], 5)
        assert_same(
            found,
            memory.expected["fewer dimensions"].search(Similarity.COSINE, queries(0)["pair"], 5),
        )

    @pytest.mark.parametrize("before", ["none", "turned", "fewer dimensions"])
    @pytest.mark.parametrize("after", ["none", "turned otherwise"])
    def test_of_another_head_is_not_used(
        self, open_memory: OpenMemory, before: str, after: str
    ) -> None:
        if before == after:
            return
        memory = Compared(open_memory(head=HEADS[before]))
        memory.add(40, 0)
        memory.memory.write_snapshot()
        memory.memory = open_memory(head=HEADS[after])
        opened_from = memory.memory.stats().index.opened_from
        assert opened_from.startswith("the database")
        assert "expected fingerprint" in opened_from
        memory.check(after)

    def test_is_written_after_a_switch(self, open_memory: OpenMemory) -> None:
        memory = Compared(open_memory())
        memory.add(40, 0)
        memory.memory.use_head(HEADS["turned"])
        assert memory.memory.wait_until_idle(WAIT)
        memory.memory = open_memory(head=HEADS["turned"])
        assert memory.memory.stats().index.opened_from.startswith("the snapshot, 0 changes")
        memory.check("turned")

    def test_of_a_head_is_sound_for_the_checker_that_does_not_have_the_head(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        memory = open_memory(head=HEADS["fewer dimensions"])
        memory.add(entries(9), *pairs(9, 0))
        memory.write_snapshot()
        memory.close()
        with open_contents(directory) as contents:
            report = check(contents)
        assert all(finding.note for finding in report.findings)
        assert any("projected by the head sha256:" in f.text for f in report.findings)


class Stopped:
    """Stops the building of an index with a head at its first entry."""

    def __init__(self, patch: pytest.MonkeyPatch, head: LinearHead | None) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        add: Callable[..., None] = Index.add

        def stuck(index: Index, *arguments: object) -> None:
            if index.head is head and not self.go_on.is_set():
                self.begun.set()
                assert self.go_on.wait(WAIT)
            add(index, *arguments)

        patch.setattr(Index, "add", stuck)
