"""Matches that do not all say the same: maximal marginal relevance.

After Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents
and Producing Summaries (SIGIR 1998). A camera at rest remembers one scene a hundred times; a
planner that asks for five examples wants five different ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POOL = 5
"""Candidates that are looked at for each one wanted."""

MOST = 500
"""Matches that are chosen for what they differ in; those behind them follow by score. Of a hundred
thousand wanted ones, the likeness of each to each would fill the RAM."""


def pool(k: int) -> int:
    """Return how many candidates it takes to choose ``k`` matches."""
    return max(k, min(k, MOST) * POOL)


def choose(
    scores: NDArray[np.float64], likeness: NDArray[np.float64], k: int, diversity: float
) -> list[int]:
    """Return which candidates to show, in order.

    Each next one has the largest ``(1 - diversity) * relevance - diversity * likeness`` to the
    one chosen before it that it resembles most. Relevance is the score scaled to [0, 1] over the
    candidates, because scores of the two modalities have different ranges. So ``MOST`` are chosen
    at most, among the first ``m``; all others follow by score.

    Args:
        scores: Best first, shape ``(n,)``.
        likeness: Between the first ``m`` candidates, at most 1, shape ``(m, m)``.
        k: How many are wanted, from 1 on.
        diversity: In [0, 1]; 0 keeps the order of the scores, 1 looks at likeness alone once
            the best is chosen.

    Returns:
        Positions, ``min(k, n)`` of them. Of equally good candidates the earlier one comes first.
    """
    if not len(scores):
        return []
    looked_at = scores[: len(likeness)]
    spread = float(looked_at[0] - looked_at[-1])
    relevance = (looked_at - looked_at[-1]) / spread if spread > 0 else np.ones(len(looked_at))
    chosen = [0]
    closest = likeness[0].copy()
    left = np.ones(len(looked_at), dtype=np.bool_)
    left[0] = False
    while len(chosen) < min(k, len(looked_at), MOST):
        value = (1.0 - diversity) * relevance - diversity * closest
        best = int(np.argmax(np.where(left, value, -np.inf)))
        chosen.append(best)
        left[best] = False
        closest = np.maximum(closest, likeness[best])
    behind = [*np.flatnonzero(left).tolist(), *range(len(looked_at), len(scores))]
    return (chosen + behind)[:k]


def cosines(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each pair of vectors, shape ``(n, n)``, from shape ``(n, dim)``."""
    wide = vectors.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    found: NDArray[np.float64] = unit @ unit.T
    return found
