"""What the heads have in common: named arrays, checked, and a digest of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import HeadError, InvalidInputError
from vla_retrieval.projection import Codes
from vla_retrieval.types import Embeddings, Fingerprint, Modality

Weights: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Arrays of a head by name, float32."""


class WeightedHead(ABC):
    """A head that is a few named arrays: the base of all of them, and a ``projection.Head``.

    Args:
        encoder: The encoder that it belongs to; its ``head`` is empty.
        weights: All arrays of the kind of head, and no other. They are copied.

    Raises:
        HeadError: If an array is missing, unknown, of another shape or type, or not finite.
    """

    METHOD: ClassVar[str]

    def __init__(self, encoder: Fingerprint, weights: Weights) -> None:
        self._encoder = encoder
        self._weights = {name: _frozen(array) for name, array in sorted(weights.items())}
        _check(self.METHOD, self.shapes(encoder.dim, weights), self._weights)
        self._digest = _digest(self.METHOD, self._weights)

    @staticmethod
    @abstractmethod
    def shapes(dim: int, weights: Weights) -> dict[str, tuple[int, ...]]:
        """Return the shape that each array must have.

        Args:
            dim: Of the encoder.
            weights: The arrays that there are; sizes that are free are taken from them.
        """

    @property
    def method(self) -> str:
        """How it was learned: a key of ``METHODS``."""
        return self.METHOD

    @property
    def digest(self) -> str:
        """``"sha256:<hex>"`` of the method and all arrays."""
        return self._digest

    @property
    def encoder(self) -> Fingerprint:
        """The encoder that it was trained on."""
        return self._encoder

    @property
    def weights(self) -> Weights:
        """Its arrays by name, float32 and read-only."""
        return dict(self._weights)

    @property
    def dim(self) -> int:
        """Length of what ``project`` returns."""
        return self._encoder.dim

    @property
    def bits(self) -> int:
        """Length of a code in bits; 0 where there are no codes."""
        return 0

    @abstractmethod
    def project(self, embeddings: Embeddings, modality: Modality) -> Embeddings:
        """Project embeddings of one modality, as ``projection.Head`` says."""

    def codes(self, embeddings: Embeddings, modality: Modality) -> Codes:
        """Refuse: only a hash head has codes.

        Raises:
            InvalidInputError: Always.
        """
        raise InvalidInputError(
            "head", "one with codes (train --method hash)",
            f"a {self.method} head, asked for codes of {len(embeddings)} {modality.value}(s)",
        )  # fmt: skip


def _frozen(array: NDArray[np.float32]) -> NDArray[np.float32]:
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy


def _check(method: str, shapes: Mapping[str, tuple[int, ...]], weights: Weights) -> None:
    if shapes.keys() != weights.keys():
        raise HeadError(
            f"Not a {method} head: expected the arrays {sorted(shapes)}, got {sorted(weights)}."
            " Train it again, or give another file."
        )
    for name, array in weights.items():
        if array.shape != shapes[name] or array.dtype != np.float32:
            raise HeadError(
                f"Not a {method} head: expected {name} of float32 {list(shapes[name])}, got"
                f" {array.dtype} {list(array.shape)}. Train it again, or give another file."
            )
        if not np.isfinite(array).all():
            raise HeadError(
                f"Not a {method} head: expected finite numbers in {name}, got NaN or infinity."
                " Train it again with a lower --learning-rate."
            )


def _digest(method: str, weights: Weights) -> str:
    digest = hashlib.sha256(f"{method}\n".encode())
    for name, array in weights.items():
        digest.update(f"{name} {list(array.shape)}\n".encode())
        digest.update(array.astype("<f4").tobytes())
    return f"sha256:{digest.hexdigest()}"
