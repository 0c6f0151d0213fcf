"""A memory whose process is killed at each step of a commit, a snapshot, a compaction, an open."""

from __future__ import annotations

from pathlib import Path

import pytest

from .book import Book, Step, life
from .killer import KILLED, Killer, copied, goes_on, settled

STEPS = 9
MANY = 26  # entries: enough for codes to be fitted to, in these tests


class Rehearsal:
    """A memory that has lived some, and a life from there on with the points that it passes."""

    def __init__(self, killer: Killer, tmp_path: Path, index: str, seed: int) -> None:
        self.killer, self.index, self.tmp_path = killer, index, tmp_path
        self.base = tmp_path / "base"
        self.book = Book(max_entries=MANY)
        first: list[Step] = [["add", [[serial, False] for serial in range(24)]], ["snapshot"]]
        first += [["add", [[24, True], [25, False]]], ["remove", [3, 7]]]
        killer.live(self.base, self.book, first, index=index)
        for step in first:
            self.book, _ = self.book.after(step)
        self.life, _ = life(self.book, 26, STEPS, seed)
        kinds: list[Step] = [["compact"], ["reopen"], ["snapshot"], ["remove", [1]]]
        self.life = [*kinds[3:], *kinds[:3], *without(self.life, 1)]
        rehearsed = killer.live(
            copied(self.base, tmp_path / "rehearsal"), self.book, self.life, index=index
        )
        assert rehearsed.status == 0
        self.points = rehearsed.points
        settled(tmp_path / "rehearsal", self.book, self.life, rehearsed, index)

    def kill_at(self, number: int) -> None:
        directory = copied(self.base, self.tmp_path / "killed")
        lived = self.killer.live(directory, self.book, self.life, index=self.index, kill_at=number)
        assert lived.status == KILLED, f"point {number} was not reached"
        book = settled(directory, self.book, self.life, lived, self.index)
        goes_on(directory, book, self.index)


def without(steps: list[Step], entry_id: int) -> list[Step]:
    """Return the steps that do not name an entry which is removed before them."""
    return [s for s in steps if s[0] not in ("remove", "pin") or entry_id not in s[1]]


def test_whoever_is_killed_at_any_kind_of_point_loses_nothing_acknowledged(
    killer: Killer, tmp_path: Path
) -> None:
    rehearsal = Rehearsal(killer, tmp_path, "exact", seed=1)
    first_of_kind = {label: n for n, label in reversed(list(enumerate(rehearsal.points)))}
    for label in ("before BEGIN IMMEDIATE", "before COMMIT", "after COMMIT", "before VACUUM"):
        assert label in first_of_kind
    assert len(first_of_kind) >= 20
    for number in first_of_kind.values():
        rehearsal.kill_at(number)


def test_whoever_is_killed_while_single_entries_are_stored_loses_nothing_acknowledged(
    killer: Killer, tmp_path: Path
) -> None:
    """One without a thumbnail is a transaction of one statement, one with is not."""
    book, base = Book(max_entries=0), tmp_path / "base"
    killer.live(base, book, [["add", [[0, False]]]])
    book, _ = book.after(["add", [[0, False]]])
    singles: list[Step] = [["add", [[serial, serial == 6]]] for serial in (3, 4, 6)]
    steps: list[Step] = [*singles, ["remove", [4]], ["reopen"], ["add", [[9, False]]]]
    rehearsed = killer.live(copied(base, tmp_path / "rehearsal"), book, steps)
    assert rehearsed.points.count("before INSERT INTO entries") == 4
    assert rehearsed.points.count("before BEGIN IMMEDIATE") == 2  # the thumbnail, the removal
    for number in range(len(rehearsed.points)):
        directory = copied(base, tmp_path / "killed")
        lived = killer.live(directory, book, steps, kill_at=number)
        assert lived.status == KILLED, f"point {number} was not reached"
        goes_on(directory, settled(directory, book, steps, lived, "exact"), "exact")


@pytest.mark.slow
@pytest.mark.parametrize(("index", "each"), [("exact", 1), ("pq", 3), ("pq_sq8", 3), ("hash", 3)])
def test_whoever_is_killed_at_every_single_point_loses_nothing_acknowledged(
    killer: Killer, tmp_path: Path, index: str, each: int
) -> None:
    rehearsal = Rehearsal(killer, tmp_path, index, seed=2)
    assert len(rehearsal.points) >= 100
    for number in range(0, len(rehearsal.points), each):
        rehearsal.kill_at(number)


def test_a_memory_that_is_killed_while_it_is_made_opens(killer: Killer, tmp_path: Path) -> None:
    book = Book(max_entries=9)
    made: list[Step] = [["add", [[0, False]]]]
    rehearsed = killer.live(tmp_path / "rehearsal", book, made)
    for number in range(rehearsed.points.index("after COMMIT") + 2):
        directory = copied(tmp_path / "none", tmp_path / f"killed {number}")
        lived = killer.live(directory, book, made, kill_at=number)
        assert lived.status == KILLED
        goes_on(directory, settled(directory, book, made, lived, "exact"), "exact")
