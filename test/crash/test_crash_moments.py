"""A memory whose process is killed from outside, wherever it is by then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .book import Book, life
from .killer import KILLED, Killer, settled

STEPS = 400  # more than are lived before the kill


def kill_again_and_again(killer: Killer, directory: Path, index: str, kills: int) -> None:
    """Let one memory be used by one process after another, each killed."""
    book, serial = Book(max_entries=40), 0
    rng = np.random.default_rng(kills)
    for seed in range(kills):
        steps, serial = life(book, serial, STEPS, seed)
        lived = killer.live(
            directory, book, steps, index=index, durable=bool(seed % 3 == 0),
            kill_after_lines=int(rng.integers(1, 40)), snapshot_after=int(rng.integers(3, 30)),
        )  # fmt: skip
        assert lived.status == KILLED
        book = settled(directory, book, steps, lived, index)
    assert book.next_id > 5 * kills
    assert book.evicted > kills
    assert book.merged > kills


def test_what_was_acknowledged_is_there_after_kills_at_any_moment(
    killer: Killer, tmp_path: Path
) -> None:
    kill_again_and_again(killer, tmp_path / "memory", "exact", 20)


@pytest.mark.slow
@pytest.mark.parametrize("index", ["exact", "pq", "pq_sq8", "hash"])
def test_what_was_acknowledged_is_there_after_very_many_kills(
    killer: Killer, tmp_path: Path, index: str
) -> None:
    kill_again_and_again(killer, tmp_path / "memory", index, 70)
