"""Who goes when a memory is full."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest

from vla_retrieval.errors import InvalidInputError, MemoryFullError, StorageError
from vla_retrieval.memory import Eviction, Memory, MemoryOptions
from vla_retrieval.types import Modality, NewEntry, Probe

from .conftest import DIM, OpenMemory
from .oracle import unit, unit_vectors


def bounded(policy: Eviction = Eviction.OLDEST, entries: int = 10) -> MemoryOptions:
    return MemoryOptions(max_entries=entries, eviction=policy)


def add(memory: Memory, *entries: NewEntry, seed: int = 0) -> tuple[list[int], list[int]]:
    """Return the new ids, and those that went."""
    count = len(entries)
    halves = unit_vectors(count, DIM, seed), unit_vectors(count, DIM, seed + 1000)
    report = memory.add_with_report(entries, *halves)
    return list(report.entry_ids), list(report.evicted)


def seen(stamp: int, size: int = 0, *, pinned: bool = False) -> NewEntry:
    return NewEntry("do it", stamp, thumbnail=bytes(size), pinned=pinned)


def test_the_oldest_goes_first_as_in_a_plain_model(open_memory: OpenMemory) -> None:
    memory = open_memory(options=bounded(entries=12))
    rng = np.random.default_rng(0)
    model: dict[int, tuple[int, bool]] = {}
    evictions = 0
    for number in range(80):
        batch = [
            (int(rng.integers(50)), bool(rng.random() < 0.05))
            for _ in range(int(rng.integers(1, 4)))
        ]
        old = sorted((stamp, i) for i, (stamp, pinned) in model.items() if not pinned)
        ids, gone = add(memory, *(seen(s, pinned=p) for s, p in batch), seed=number)
        model.update(zip(ids, batch, strict=True))
        expected = [i for _, i in old[: max(0, len(model) - 12)]]
        assert gone == expected
        for entry_id in expected:
            del model[entry_id]
        evictions += len(gone)
        if number % 7 == 0 and len([p for _, p in model.values() if p]) < 4:
            pin = next(iter(model))
            memory.pin([pin])
            model[pin] = (model[pin][0], True)
        if number % 20 == 19:
            memory = open_memory(options=bounded(entries=12))
        assert memory.entry_ids() == sorted(model)
    stats = memory.stats()
    assert stats.evicted == stats.evicted_over_entries == evictions > 50
    assert stats.evicted_over_bytes == 0


def test_the_least_used_goes_first_and_uses_survive_a_restart(open_memory: OpenMemory) -> None:
    options = bounded(Eviction.LEAST_USED, 8)
    memory = open_memory(options=options)
    rng = np.random.default_rng(1)
    model: dict[int, int] = {}
    uses: Counter[int] = Counter()
    for number in range(50):
        stamp = int(rng.integers(5))
        order = sorted(model, key=lambda i: (uses[i], model[i], i))
        (new,), gone = add(memory, seen(stamp), seed=number)
        assert gone == order[: max(0, len(model) + 1 - 8)]
        model[new] = stamp
        for entry_id in gone:
            del model[entry_id]
        used = rng.choice(sorted(model), int(rng.integers(4))).tolist()
        memory.note_use(used)
        uses.update(used)
        if number % 9 == 8:
            memory = open_memory(options=options)
    assert sum(uses.values()) > 50


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_most_redundant_goes_first_so_that_one_of_each_stays(
    open_memory: OpenMemory, at_once: int
) -> None:
    groups, copies, bound = 15, 8, 32
    rng = np.random.default_rng(6)
    group = rng.permutation(np.repeat(np.arange(groups), copies))
    centres = unit_vectors(groups, DIM, 5).astype(np.float64)
    vectors = unit(centres[group] + rng.standard_normal((len(group), DIM)) * 1e-3)
    memory = open_memory(options=bounded(Eviction.MOST_REDUNDANT, bound))
    for start in range(0, len(group), at_once):
        some = vectors[start : start + at_once]
        memory.add([seen(0)] * len(some), some, some)
    left = [int(group[i - 1]) for i in memory.entry_ids()]
    assert len(left) == bound
    assert set(left) == set(range(groups))


@pytest.mark.parametrize("at_once", [1, 6])
def test_where_one_of_two_copies_went_the_other_stays(
    open_memory: OpenMemory, at_once: int
) -> None:
    """It was as redundant when that was last asked, and is not any more."""
    pairs = 6
    vectors = np.repeat(unit_vectors(2 * pairs, DIM, 3), [2] * pairs + [1] * pairs, axis=0)
    copies, others = vectors[: 2 * pairs], vectors[2 * pairs :]
    memory = open_memory(options=bounded(Eviction.MOST_REDUNDANT, 2 * pairs))
    memory.add([seen(0)] * len(copies), copies, copies)
    for start in range(0, pairs, at_once):
        some = others[start : start + at_once]
        memory.add([seen(0)] * len(some), some, some)
    left = [(i - 1) // 2 for i in memory.entry_ids() if i <= len(copies)]
    assert left == list(range(pairs))


@pytest.mark.parametrize("policy", [Eviction.LEAST_USED, Eviction.MOST_REDUNDANT])
def test_where_choosing_looks_at_all_entries_more_go_at_once_than_must(
    open_memory: OpenMemory, policy: Eviction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a full memory does not choose anew at each add."""
    monkeypatch.setattr("vla_retrieval.memory.eviction._AT_ONCE", 10)
    memory = open_memory(options=bounded(policy, 50))
    add(memory, *(seen(n) for n in range(50)))
    went = [len(add(memory, seen(50 + n), seed=n + 1)[1]) for n in range(6)]
    assert went == [5, 0, 0, 0, 0, 5]


def test_what_was_pinned_while_there_were_no_bounds_stays_when_there_are(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory()
    add(memory, seen(0), seen(1))
    memory.pin([1])
    memory = open_memory()
    memory.pin([2])
    memory.pin([2], pinned=False)
    memory = open_memory(options=bounded(Eviction.OLDEST, 2))
    assert add(memory, seen(2))[1] == [2]


@pytest.mark.parametrize("policy", Eviction)
def test_a_pinned_entry_never_goes(open_memory: OpenMemory, policy: Eviction) -> None:
    memory = open_memory(options=bounded(policy, 6))
    add(memory, seen(0), seen(1, pinned=True), seen(2), seen(3))
    memory.pin([1])
    for number in range(30):
        if number == 10:
            memory = open_memory(options=bounded(policy, 6))
        _, gone = add(memory, seen(5), seed=number)
        assert not {1, 2} & set(gone)
    memory.pin([1], pinned=False)
    if policy is Eviction.OLDEST:
        assert add(memory, seen(9))[1] == [1]
    assert memory.get(2).pinned


@pytest.mark.parametrize("policy", Eviction)
def test_where_all_are_pinned_nothing_is_added_and_nothing_changes(
    open_memory: OpenMemory, policy: Eviction
) -> None:
    memory = open_memory(options=bounded(policy, 3))
    add(memory, *(seen(n, pinned=True) for n in range(3)))
    probes = [Probe(m, unit_vectors(1, DIM, 0)[0], 0.5) for m in Modality]
    before = memory.search(probes, 9).candidates
    with pytest.raises(MemoryFullError, match=r"max_entries 3 is reached.*only 0 may go; 1 have"):
        add(memory, seen(7))
    assert memory.entry_ids() == [1, 2, 3]
    assert memory.search(probes, 9).candidates == before
    assert memory.stats().evicted == 0
    memory.remove([2])
    assert add(memory, seen(7)) == ([4], [])


def test_more_at_once_than_may_be_kept_are_refused(open_memory: OpenMemory) -> None:
    memory = open_memory(options=bounded(entries=3))
    add(memory, seen(0))
    with pytest.raises(InvalidInputError, match="entries: expected at most max_entries, 3, at"):
        add(memory, *(seen(n) for n in range(4)))
    assert memory.entry_ids() == [1]


def test_a_lower_bound_makes_room_at_the_next_add(open_memory: OpenMemory) -> None:
    add(open_memory(), *(seen(n) for n in range(9)))
    memory = open_memory(options=bounded(entries=4))
    assert len(memory.entry_ids()) == 9
    assert add(memory, seen(20))[1] == [1, 2, 3, 4, 5, 6]


def used_bytes(memory: Memory) -> int:
    with memory._database.reading() as connection:
        return memory._database.used_bytes(connection)


@pytest.mark.parametrize("policy", Eviction)
def test_the_database_stays_within_its_bytes(open_memory: OpenMemory, policy: Eviction) -> None:
    bound = 500_000
    memory = open_memory(options=MemoryOptions(max_bytes=bound, eviction=policy))
    rng = np.random.default_rng(2)
    gone = 0
    for number in range(60):
        sizes = rng.integers(0, 40_000, size=int(rng.integers(1, 4)))
        gone += len(add(memory, *(seen(number, int(size)) for size in sizes), seed=number)[1])
        assert used_bytes(memory) <= bound
    assert gone > 20
    assert used_bytes(memory) > bound / 3


def test_few_large_entries_make_room_for_many_small_ones_without_going_all(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(options=MemoryOptions(max_bytes=1_000_000))
    add(memory, *(seen(n, 280_000) for n in range(3)))
    ids, gone = add(memory, *(seen(9, 2_000) for _ in range(100)), seed=1)
    assert gone == [1]
    assert memory.entry_ids() == [2, 3, *ids]
    assert used_bytes(memory) <= 1_000_000


def test_large_entries_that_may_go_are_enough_where_small_ones_are_pinned(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(options=MemoryOptions(max_bytes=1_000_000))
    add(memory, *(seen(n, 2_000, pinned=True) for n in range(60)))
    add(memory, seen(100, 700_000), seed=1)
    assert add(memory, seen(101, 600_000), seed=2) == ([62], [61])


def test_an_entry_larger_than_all_bytes_is_refused_and_nothing_goes(
    open_memory: OpenMemory,
) -> None:
    memory = open_memory(options=MemoryOptions(max_bytes=300_000))
    add(memory, seen(0), seen(1))
    with pytest.raises(MemoryFullError, match="max_bytes 300000 is reached"):
        add(memory, seen(2, 400_000), seed=1)
    assert memory.entry_ids() == [1, 2]


def test_who_went_and_why_is_logged_one_by_one_at_debug(
    open_memory: OpenMemory, caplog: pytest.LogCaptureFixture
) -> None:
    memory = open_memory(options=bounded(Eviction.LEAST_USED, 2))
    with caplog.at_level(logging.DEBUG):
        add(memory, seen(0), seen(1))
        assert "evicted" not in caplog.text
        for stamp in (2, 3, 4):
            add(memory, seen(stamp))
    each = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
    assert [text for text in each if text.startswith("evicted")] == [
        f"evicted entry {i}: max_entries 2 was passed; least used first" for i in (1, 2, 3)
    ]


def test_a_full_memory_does_not_flood_the_log(
    open_memory: OpenMemory, caplog: pytest.LogCaptureFixture
) -> None:
    """The first eviction is told at once, those of the rest of the minute when it is closed."""
    memory = open_memory(options=bounded(entries=2))
    with caplog.at_level(logging.INFO):
        for stamp in range(32):
            add(memory, seen(stamp), seed=stamp)
        memory.close()
    told = [text for text in caplog.messages if text.startswith("evicted")]
    assert len(told) == 2
    assert "1 because max_entries 2 was passed; oldest first, the last entry 1." in told[0]
    assert "29 because max_entries 2 was passed; oldest first, the last entry 30." in told[1]


def test_an_eviction_that_was_not_committed_is_not_logged(
    open_memory: OpenMemory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vla_retrieval.memory import counters

    memory = open_memory(options=bounded(entries=1))
    add(memory, seen(0))
    with monkeypatch.context() as patch, caplog.at_level(logging.DEBUG):
        increase = counters.increase

        def fail(connection: Any, name: str, *by: int) -> int:
            if name == counters.REMOVED:  # counted last
                raise OSError(errno.EIO, "Input/output error")
            return increase(connection, name, *by)

        patch.setattr(counters, "increase", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            add(memory, seen(1))
    assert "evicted" not in caplog.text


def test_an_eviction_that_cannot_be_committed_evicts_nobody(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vla_retrieval.memory import counters

    memory = open_memory(options=bounded(entries=3))
    add(memory, *(seen(n) for n in range(3)))
    increase = counters.increase

    def cut_off(connection: object, name: str, by: int = 1) -> int:
        if name == counters.REMOVED:
            raise KeyboardInterrupt
        return increase(connection, name, by)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(counters, "increase", cut_off)
        with pytest.raises(KeyboardInterrupt):
            add(memory, seen(9))
    assert memory.entry_ids() == [1, 2, 3]
    assert memory.stats().evicted == 0
    assert add(memory, seen(9)) == ([4], [1])


def test_counters_survive_a_restart(open_memory: OpenMemory) -> None:
    options = MemoryOptions(max_entries=2, merge_scene=0.999)
    memory = open_memory(options=options)
    add(memory, seen(0), seen(1))
    add(memory, seen(0), seen(1))  # the same vectors
    add(memory, seen(3), seed=5)
    for _ in range(2):
        assert (memory.stats().evicted, memory.stats().merged) == (1, 2)
        memory = open_memory(options=options)


def test_who_is_cut_off_after_a_commit_does_not_get_its_ids_given_out_again(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory(options=bounded(entries=2))
    add(memory, seen(1), seen(2))

    def no_room(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(memory._standing, "forget", no_room)
        with pytest.raises(MemoryError):
            add(memory, seen(3))
    assert add(memory, seen(4)) == ([4], [2])
    assert memory.entry_ids() == [3, 4]
