"""The byte budget of the index while entries come faster than an index can be built."""

from __future__ import annotations

import threading

import pytest

from vla_retrieval.errors import StorageError
from vla_retrieval.memory import MemoryOptions, building
from vla_retrieval.memory.keeper import Keeper
from vla_retrieval.types import NewEntry

from .conftest import DIM, OpenMemory
from .oracle import unit_vectors

BATCH = 50
BUDGET_BYTES = 32_000  # some 200 entries of this dimension as whole vectors


def test_who_adds_faster_than_a_smaller_index_is_built_is_held_back(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, held_back = threading.Event(), threading.Event()
    build, wait = building.build, Keeper.wait_until_idle

    def slow_build(*arguments: object, **options: object) -> object:
        if "give_up" in options:  # in the background, not at open
            assert go_on.wait(60)
        return build(*arguments, **options)  # type: ignore[arg-type]

    def waiting(self: Keeper, timeout_sec: float | None = None) -> bool:
        held_back.set()
        return wait(self, timeout_sec)

    monkeypatch.setattr(building, "FEWEST_TO_FIT", 100)
    monkeypatch.setattr(building, "build", slow_build)
    monkeypatch.setattr(Keeper, "wait_until_idle", waiting)
    memory = open_memory(options=MemoryOptions(index_bytes=BUDGET_BYTES))
    vectors = unit_vectors(20 * BATCH, DIM, 1)

    def fill() -> None:
        for start in range(0, len(vectors), BATCH):
            some = vectors[start : start + BATCH]
            memory.add([NewEntry("do", n) for n in range(BATCH)], some, some)

    adder = threading.Thread(target=fill)
    adder.start()
    assert held_back.wait(60)
    assert memory.stats().index.ram_bytes < 2 * BUDGET_BYTES
    assert "entries are for pq_sq8" in memory.overdue()
    go_on.set()
    adder.join(60)
    assert memory.wait_until_idle(60)
    assert memory.overdue() == ""
    stats = memory.stats()
    assert (stats.entries, stats.index.kind) == (20 * BATCH, "pq_sq8")


def test_a_smaller_index_that_could_not_be_built_is_tried_again_by_who_asks_whether_to_wait(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is refused meanwhile adds nothing, so that no change would try again."""
    monkeypatch.setattr(building, "FEWEST_TO_FIT", 100)
    memory = open_memory(options=MemoryOptions(index_bytes=BUDGET_BYTES))
    maintenance = memory._maintenance
    assert maintenance is not None
    vectors = unit_vectors(20 * BATCH, DIM, 1)

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("cannot read from the disk")

    with monkeypatch.context() as patch:
        patch.setattr(building, "build", refuse)
        memory.add([NewEntry("do", n) for n in range(len(vectors))], vectors, vectors)
        assert maintenance.keeper.wait_until_idle(60)  # the memory's own would look and try again
    assert "cannot read" in memory.stats().index.last_error
    assert "entries are for pq_sq8" in memory.overdue()
    assert maintenance.keeper.wait_until_idle(60)
    assert memory.overdue() == ""
    assert memory.stats().index.kind == "pq_sq8"
