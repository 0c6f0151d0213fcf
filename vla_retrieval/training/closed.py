"""Solutions in closed form: where learning starts, and what it is compared with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_ITQ_STEPS = 50
_LEAST = 1e-12
_CLEAR = 1e-6  # of the strongest axis: below lies rounding


def whitening(centred: Matrix, shrinkage: float) -> Matrix:
    """Return the symmetric map that makes the covariance of some rows the identity.

    Args:
        centred: Shape ``(n, dim)``, whose second moments count.
        shrinkage: In [0, 1]: 0 whitens wholly, 1 only scales (Ledoit and Wolf, "A
            well-conditioned estimator for large-dimensional covariance matrices", 2004).

    Returns:
        Shape ``(dim, dim)``, with the determinant of the identity's scale: a mean eigenvalue of 1.
    """
    covariance = centred.T @ centred / max(len(centred), 1)
    dim = len(covariance)
    scale = max(float(np.trace(covariance)) / dim, np.finfo(np.float64).tiny)
    shrunk = (1 - shrinkage) * covariance / scale + shrinkage * np.eye(dim)
    values, axes = np.linalg.eigh(shrunk)
    found: Matrix = (axes / np.sqrt(np.maximum(values, 1e-6))) @ axes.T
    return found * (dim / np.trace(found))


def within(rows: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """Return each row without the mean of its label: what differs though the task is the same.

    Args:
        rows: Shape ``(n, dim)``.
        labels: From 0 on, shape ``(n,)``.
    """
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, labels, rows)
    found: Matrix = rows - (sums / np.maximum(counts, 1)[:, None])[labels]
    return found


def between(modalities: Iterable[Matrix], labels: NDArray[np.int64]) -> Matrix:
    """Return the axes along which the means of labels differ.

    A label's mean is that of its means in all modalities, each of which counts alike, so that what
    only one of them varies with is outweighed by what tells the labels apart in all.

    Args:
        modalities: Of each the centred rows, shape ``(n, dim)``.
        labels: Of the rows, from 0 on, shape ``(n,)``.

    Returns:
        Orthonormal rows, shape ``(axes, dim)``: one axis less than labels, or fewer.
    """
    counts = np.bincount(labels)
    together: Matrix = np.zeros((1, 1))
    for rows in modalities:
        sums = np.zeros((len(counts), rows.shape[1]))
        np.add.at(sums, labels, rows)
        means = sums / np.maximum(counts, 1)[:, None]
        means -= means.mean(axis=0)
        together = together + means / max(float(np.linalg.norm(means)), _LEAST)
    _, strengths, axes = np.linalg.svd(together, full_matrices=False)
    found: Matrix = axes[strengths > _CLEAR * max(float(strengths.max()), _LEAST)]
    return found


def itq(centred: Matrix, bits: int, seed: int) -> Matrix:
    """Return hyperplanes through the origin whose sides keep most of the rows' layout.

    The leading principal axes, rotated so that rows lie near the corners of a cube (Gong and
    Lazebnik, "Iterative quantization", 2011). Bits beyond the dimensions are random hyperplanes.

    Args:
        centred: Shape ``(n, dim)``.
        bits: How many.
        seed: Of the first rotation, and of the random ones.

    Returns:
        Shape ``(bits, dim)``.
    """
    dim = centred.shape[1]
    rng = np.random.default_rng(seed)
    kept = min(bits, dim)
    _, axes = np.linalg.eigh(centred.T @ centred)
    leading = axes[:, ::-1][:, :kept]
    reduced = centred @ leading
    rotation, _ = np.linalg.qr(rng.standard_normal((kept, kept)))
    for _ in range(_ITQ_STEPS):
        left, _, right = np.linalg.svd(np.sign(reduced @ rotation).T @ reduced)
        rotation = right.T @ left.T
    planes = (leading @ rotation).T
    extra = rng.standard_normal((bits - kept, dim))
    extra /= np.linalg.norm(extra, axis=1, keepdims=True)
    found: Matrix = np.concatenate([planes, extra])
    return found
