"""Products of embeddings and weights, in which no row depends on its neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import Embeddings

Matrix = NDArray[np.float64]

_ROWS = 16
"""Rows in one product. A BLAS chooses its kernel, and with it the order of summation, by the shape:
with one shape for all, the last bits of a row are the same alone and among a million others."""


def units(embeddings: Embeddings, dim: int) -> Matrix:
    """Return embeddings as rows of unit length.

    Args:
        embeddings: Shape ``(n, dim)``, of any length but 0.
        dim: Of the encoder.

    Returns:
        Float64, shape ``(n, dim)``.

    Raises:
        InvalidInputError: If they have another shape, a number is not finite, or a row is zero.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise InvalidInputError("embeddings", f"shape (n, {dim})", f"shape {rows.shape}")
    lengths = _lengths(rows)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise InvalidInputError(
            "embeddings", "finite numbers and no row of zeros", "a row of length 0, NaN or infinity"
        )
    found: Matrix = rows / lengths[:, None]
    return found


def product(rows: Matrix, weights: Matrix) -> Matrix:
    """Return ``rows @ weights``, each row computed as if it were alone.

    Args:
        rows: Shape ``(n, dim)``.
        weights: Shape ``(dim, m)``.

    Returns:
        Float64, shape ``(n, m)``.
    """
    count, dim = rows.shape
    padded = np.zeros((-(-count // _ROWS) * _ROWS, dim))
    padded[:count] = rows
    blocks = padded.reshape(-1, _ROWS, dim)
    found: Matrix = np.matmul(blocks, weights).reshape(-1, weights.shape[1])[:count]
    return found


def normalised(rows: Matrix) -> Embeddings:
    """Return rows scaled to unit length, float32; a row of zeros stays one."""
    lengths = _lengths(rows)
    found: Embeddings = (rows / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)
    return found


def _lengths(rows: Matrix) -> Matrix:
    found: Matrix = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return found
