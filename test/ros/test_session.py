"""What the configured node does with its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import numpy as np

from vla_retrieval.memory.index import Index
from vla_retrieval.ros.health import Health
from vla_retrieval.ros.parameters import Settings
from vla_retrieval.ros.session import Session
from vla_retrieval.types import NewEntry

from .inference import WAIT_SEC

PAIRS = 100  # fewer than the keeper's thread waits for


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Return a session with one pair, where nobody looks at the memory but the test."""
    settings = Settings(memory_dir=str(tmp_path / "memory"), model="double", device="cpu")
    session = Session(settings, Health())
    session.disk.stop()
    run(session, lambda: remember(session, 1))
    assert session.memory.entry_ids() == [1]  # from here on the index is not empty
    yield session
    session.close()


def run(session: Session, job: Callable[[], object]) -> None:
    """Return when a job has run in an inference thread; raise what it raised."""
    done, errors = threading.Event(), list[Exception]()

    def work() -> None:
        try:
            job()
        except Exception as error:
            errors.append(error)
        done.set()

    session.lanes.pictures.submit(work, errors.append)
    assert done.wait(WAIT_SEC)
    assert errors == []


def remember(session: Session, pairs: int) -> None:
    """Remember made-up pairs one by one."""
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    for number in range(pairs):
        session.remember(image, NewEntry(f"task {number}", number), None)


def test_pairs_that_are_remembered_one_by_one_are_put_into_the_index_together(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When somebody asks: one by one they would take five times as long."""
    put, add = list[int](), Index.add

    def noting(index: Index, addition: object) -> None:
        put.append(len(addition.entry_ids))  # type: ignore[attr-defined]
        add(index, addition)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "add", noting)
    run(session, lambda: remember(session, PAIRS))
    assert put == []
    assert len(session.memory.entry_ids()) == 1 + PAIRS
    assert put == [PAIRS]


def test_a_pair_is_remembered_while_somebody_searches(session: Session) -> None:
    """However long that takes."""
    with session.memory._live.reading():
        run(session, lambda: remember(session, 2))
    assert len(session.memory.entry_ids()) == 3
