"""Whether two runs differ: paired randomisation tests, corrected for testing several times.

If two runs did equally well, swapping their values for a query would change nothing but chance: the
sign of each difference is as likely one as the other. Smucker, Allan and Carterette, "A comparison
of statistical significance tests for information retrieval evaluation", CIKM 2007.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError

FLIPS = 10_000
EXACT_UNITS = 16
"""Most differences whose ``2**16`` signs are all tried."""
CHUNK_CELLS = 1 << 21
"""Signs held at a time, 16 MB."""
ROUNDING = 1e-12
"""Sums that differ by less than this share of the sum of all sizes count as equal."""


def p_values(
    differences: Mapping[str, NDArray[np.float64]], *, seed: int = 0, flips: int = FLIPS
) -> dict[str, float]:
    """Test for each column whether its mean differs from 0, on both sides.

    A p value is the share of sign flips whose sum is at least as far from 0 as the sum that was
    found. Where at most ``EXACT_UNITS`` differences are not 0, all signs are tried and it is exact.
    Otherwise ``flips`` random ones are, the same for all columns, and what was found counts as one
    of them: ``(at least as far + 1) / (flips + 1)``, which is never 0.

    Args:
        differences: Name to float64, shape ``(n,)``, all of one length and without NaN.
        seed: From 0 on.
        flips: From 1 on.

    Returns:
        Name to p value, 1 where all differences are 0.

    Raises:
        InvalidInputError: If ``flips`` is below 1 or ``seed`` below 0.
    """
    if flips < 1:
        raise InvalidInputError("flips", "a whole number from 1 on", str(flips))
    if seed < 0:
        raise InvalidInputError("seed", "a whole number from 0 on", str(seed))
    found: dict[str, float] = {}
    large: dict[str, NDArray[np.float64]] = {}
    for name, values in differences.items():
        if np.count_nonzero(values) <= EXACT_UNITS:
            found[name] = _exact(values[values != 0])
        else:
            large[name] = values
    if large:
        sampled = _sampled(np.stack(list(large.values()), axis=1), seed, flips)
        found.update(zip(large, sampled, strict=True))
    return {name: found[name] for name in differences}


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Correct p values for there being several: Holm's step-down procedure.

    The i-th smallest of n is multiplied by ``n - i + 1``, and is at least as large as those before
    it and at most 1. The chance of any wrong "they differ" stays below the level that the result is
    compared with. Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Returns:
        Name to corrected p value, in the order given.
    """
    corrected: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p, key=lambda key: p[key])):
        largest = max(largest, min(1.0, p[name] * (len(p) - place)))
        corrected[name] = largest
    return {name: corrected[name] for name in p}


def _exact(values: NDArray[np.float64]) -> float:
    n = len(values)
    if not n:
        return 1.0
    # The first sign stays: all signs turned round give a sum as far from 0.
    bits = (np.arange(1 << (n - 1))[:, None] >> np.arange(n)) & 1
    sums = (1.0 - 2.0 * bits) @ values
    return float(np.mean(np.abs(sums) >= _limits(values)))


def _sampled(values: NDArray[np.float64], seed: int, flips: int) -> list[float]:
    limits = _limits(values)
    far = sum((np.abs(sums) >= limits).sum(axis=0) for sums in _flipped(values, seed, flips))
    return list(((far + 1) / (flips + 1)).tolist())


def _flipped(values: NDArray[np.float64], seed: int, flips: int) -> Iterator[NDArray[np.float64]]:
    """Yields sums with random signs, shape ``(some, columns)``, in chunks of bounded size."""
    n = len(values)
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // n)
    total = values.sum(axis=0)
    for start in range(0, flips, chunk):
        size = min(chunk, flips - start)
        packed = rng.integers(0, 256, size=(size, (n + 7) // 8), dtype=np.uint8)
        turned = np.unpackbits(packed, axis=1, count=n).astype(np.float64)
        yield total - 2.0 * (turned @ values)


def _limits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns how far from 0 is as far as what was found, but for rounding in another order."""
    limits: NDArray[np.float64] = np.abs(values.sum(axis=0)) - ROUNDING * np.abs(values).sum(axis=0)
    return limits
