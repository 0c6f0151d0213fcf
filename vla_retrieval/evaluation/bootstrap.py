"""How far a mean would move with other queries: percentile bootstrap intervals.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.results import Estimate

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK_CELLS = 1 << 19
"""Resamples times units held at a time: 4 MB of random positions and twice as much of counts."""


def estimates(
    columns: Mapping[str, NDArray[np.float64]], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """Estimate the mean of each column with its 95% interval.

    All columns are resampled together: the same units are drawn for each, so that differences
    between metrics are those within a resample. The same seed draws the same units.

    Args:
        columns: Name to float64, shape ``(n,)``, all of one length and without NaN; unit ``i`` is
            the same query (or instruction) in each.
        seed: From 0 on.
        resamples: From 1 on.

    Returns:
        Name to the mean and the 2.5th and 97.5th percentile of the resampled means, interpolated
        linearly and never on the other side of the mean; all NaN where ``n`` is 0.

    Raises:
        InvalidInputError: If ``resamples`` is below 1 or ``seed`` below 0.
    """
    if resamples < 1:
        raise InvalidInputError("resamples", "a whole number from 1 on", str(resamples))
    if seed < 0:
        raise InvalidInputError("seed", "a whole number from 0 on", str(seed))
    if not columns:
        return {}
    values = np.stack(list(columns.values()), axis=1)
    if not len(values):
        return dict.fromkeys(columns, Estimate(np.nan, np.nan, np.nan))
    means = values.mean(axis=0)
    tail = (1.0 - CONFIDENCE) / 2
    resampled = np.concatenate(list(_resampled_means(values, seed, resamples)))
    low, high = np.quantile(resampled, [tail, 1.0 - tail], axis=0)
    # Sums of equal numbers in another order may end one digit beyond the mean.
    low, high = np.minimum(low, means), np.maximum(high, means)
    triples = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Estimate(*triple) for name, triple in zip(columns, triples, strict=True)}


def _resampled_means(
    values: NDArray[np.float64], seed: int, resamples: int
) -> Iterator[NDArray[np.float64]]:
    """Yields means of resamples, shape ``(some, columns)``, in chunks of bounded size."""
    n = len(values)
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // n)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # How often each unit was drawn, and then one product for all columns, is several times
        # faster than picking each column's values.
        drawn = rng.integers(0, n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        yield times.astype(np.float64) @ values / n
