"""An array that grows at its end."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Growing(Generic[_Scalar]):
    """Appends in amortised constant time per element; room doubles.

    Args:
        dtype: Of its elements.
        shape: Of one row beyond the first axis.
    """

    def __init__(self, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        """Start empty."""
        self._room: NDArray[Any] = np.empty((16, *shape), dtype=dtype)
        self._size = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._size

    @property
    def view(self) -> NDArray[_Scalar]:
        """All rows. A later ``append`` may leave the view behind, never change what it shows."""
        return self._room[: self._size]

    def append(self, added: NDArray[_Scalar]) -> None:
        """Append rows."""
        size = self._size + len(added)
        if size > len(self._room):
            room = np.empty(
                (max(size, 2 * len(self._room)), *self._room.shape[1:]), self._room.dtype
            )
            room[: self._size] = self.view
            self._room = room
        self._room[self._size : size] = added
        self._size = size

    def clear(self) -> None:
        """Drop all rows."""
        self._size = 0
