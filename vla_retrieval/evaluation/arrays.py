"""Arrays from outside, checked once and read-only from then on."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_retrieval.errors import InvalidInputError

Number = TypeVar("Number", np.int64, np.float64)


def integers(field: str, values: ArrayLike, ndim: int = 1) -> NDArray[np.int64]:
    """Return whole numbers as a read-only int64 array.

    An int64 array is not copied; the caller's own stays writable.

    Args:
        field: How the caller calls them, for the error.
        values: Of an integer type; without elements, of any type.
        ndim: Number of dimensions that they must have.

    Raises:
        InvalidInputError: If they are of another type or have other dimensions.
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InvalidInputError(field, "whole numbers", f"an array of {array.dtype}")
    return _read_only(field, array.astype(np.int64, copy=False), ndim)


def reals(field: str, values: ArrayLike, ndim: int = 1) -> NDArray[np.float64]:
    """Return real numbers as a read-only float64 array: ``integers`` for scores.

    Raises:
        InvalidInputError: If they are of another type or have other dimensions.
    """
    array = np.asarray(values)
    real = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    if array.size and not real:
        raise InvalidInputError(field, "real numbers", f"an array of {array.dtype}")
    return _read_only(field, array.astype(np.float64, copy=False), ndim)


def _read_only(field: str, array: NDArray[Number], ndim: int) -> NDArray[Number]:
    if array.ndim != ndim:
        raise InvalidInputError(field, f"{ndim} dimension(s)", f"shape {array.shape}")
    view = array.view()
    view.flags.writeable = False
    return view
