"""Which rows have a term, against sets of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from vla_retrieval.memory import terms
from vla_retrieval.memory.terms import TermIndex

COMMON, RARE, ABSENT = 1, 2**63 + 5, 77


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_those_that_were_said_to_have_a_term(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """While pairs come, are merged, asked for, kept and restored."""
    monkeypatch.setattr(terms, "_SMALLEST_MERGE", 16)
    monkeypatch.setattr(terms, "_MOST_FREQUENT", 3)
    rng = np.random.default_rng(seed)
    vocabulary = [COMMON, RARE, *rng.integers(100, 2**62, 12).tolist()]
    chances = [0.7, 0.02, *rng.random(12).tolist()]
    index, pairs, rows = TermIndex(), set[tuple[int, int]](), 0
    for _ in range(30):
        for _ in range(int(rng.integers(1, 9))):
            said = [t for t, p in zip(vocabulary, chances, strict=True) if rng.random() < p]
            index.append(said, [rows] * len(said))
            pairs |= {(term, rows) for term in said}
            rows += 1
        if rng.random() < 0.1:
            index = TermIndex.restored(index.key, *index.state())
        for count in (1, 2, 12):
            wanted = {ABSENT, *rng.choice(np.array(vocabulary, np.uint64), count).tolist()}
            expected = [any((term, row) in pairs for term in wanted) for row in range(rows)]
            assert index.having(wanted, rows).tolist() == expected
    assert index.having([], rows).tolist() == [False] * rows
    assert len(index) == len(pairs)


def test_a_mask_is_the_callers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_SMALLEST_MERGE", 1)
    index = TermIndex()
    for row in range(20):
        index.append([COMMON], [row])
    index.having([COMMON], 20)[:] = False
    assert index.having([COMMON], 20).all()
