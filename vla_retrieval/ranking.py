"""The only sort: best score first, equal scores by lower entry_id, NaN never.

Whoever needs an order of scores takes it from here, so that two places cannot disagree about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import Candidate


def rank(candidates: Sequence[Candidate], k: int, min_score: float = -math.inf) -> list[Candidate]:
    """Return the best candidates, best first.

    Args:
        candidates: In any order. One whose score is NaN is left out.
        k: Most candidates to return, from 1 on.
        min_score: Candidates with a lower score are left out; one that equals it stays.

    Raises:
        InvalidInputError: If ``k`` is below 1 or ``min_score`` is NaN.
    """
    scores = np.array([candidate.score for candidate in candidates], dtype=np.float64)
    entry_ids = np.array([candidate.entry_id for candidate in candidates], dtype=np.int64)
    return [candidates[i] for i in order(scores, entry_ids, k, min_score)]


def order(
    scores: NDArray[np.floating],
    entry_ids: NDArray[np.int64],
    k: int,
    min_score: float = -math.inf,
) -> NDArray[np.intp]:
    """Return the positions of the best scores, best first: ``rank`` for arrays.

    Args:
        scores: Shape ``(n,)``, higher is better.
        entry_ids: Shape ``(n,)``, decides between equal scores.
        k: As in ``rank``.
        min_score: As in ``rank``.

    Returns:
        Shape ``(m,)`` with ``m <= min(k, n)``, indices into ``scores``.

    Raises:
        InvalidInputError: As in ``rank``.
    """
    if k < 1:
        raise InvalidInputError("k", "a whole number from 1 on", str(k))
    if math.isnan(min_score):
        raise InvalidInputError("min_score", "a number", "nan")
    kept = np.flatnonzero(scores >= min_score)  # NaN compares false
    best_first = np.lexsort((entry_ids[kept], -scores[kept]))
    return kept[best_first[:k]]
