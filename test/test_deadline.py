"""When an answer comes too late."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vla_retrieval import deadline
from vla_retrieval.deadline import Deadline
from vla_retrieval.errors import DeadlineExceededError


def test_it_has_passed_after_its_time_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what was allowed, how late it is, and what would have come next."""
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(deadline, "time", clock)
    limit = Deadline.after(2.0)
    for now_sec in (100.0, 101.75, 102.0):
        clock.monotonic = lambda now_sec=now_sec: now_sec
        limit.check("the search")
    clock.monotonic = lambda: 102.25
    with pytest.raises(DeadlineExceededError, match=r"within 2 s \(0\.250 s over before the sea"):
        limit.check("the search")


def test_whoever_gives_none_has_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: 1e18))
    Deadline().check("the search")
