"""What a learned head does to embeddings, as the memory and the retriever see it.

The rooms that keep embeddings and the one that learns from them meet here, so that neither has to
know the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import HeadMismatchError
from vla_retrieval.types import Embeddings, Fingerprint, Modality

Codes: TypeAlias = NDArray[np.uint8]
"""Packed binary hashes, uint8, shape ``(n, bits / 8)``, bits in the order of ``numpy.packbits``."""


class Head(Protocol):
    """A learned projection after the frozen encoder.

    Implementations are immutable and safe under concurrent calls. What a row becomes does not
    depend on the other rows of the call.
    """

    @property
    def method(self) -> str:
        """How it was learned: ``"joint"``, ``"metric"`` or ``"hash"``."""
        ...

    @property
    def digest(self) -> str:
        """``"sha256:<hex>"`` of what it computes; equal digests give equal results."""
        ...

    @property
    def encoder(self) -> Fingerprint:
        """The encoder that it was trained on; its ``head`` is empty."""
        ...

    @property
    def dim(self) -> int:
        """Length of what ``project`` returns."""
        ...

    @property
    def bits(self) -> int:
        """Length of a code in bits, a multiple of 8; 0 where ``codes`` is not offered."""
        ...

    def project(self, embeddings: Embeddings, modality: Modality) -> Embeddings:
        """Project embeddings of one modality.

        Args:
            embeddings: As the encoder made them, shape ``(n, encoder.dim)``.
            modality: What they were made from.

        Returns:
            Float32, shape ``(n, dim)``, rows of unit length.
        """
        ...

    def codes(self, embeddings: Embeddings, modality: Modality) -> Codes:
        """Hash embeddings of one modality, so that neighbours have a small Hamming distance.

        Args:
            embeddings: As the encoder made them, shape ``(n, encoder.dim)``.
            modality: What they were made from.

        Returns:
            Shape ``(n, bits / 8)``.

        Raises:
            InvalidInputError: If ``bits`` is 0.
        """
        ...


def projected_fingerprint(encoder: Fingerprint, head: Head | None) -> Fingerprint:
    """Return the fingerprint of what a head makes of an encoder's embeddings.

    Args:
        encoder: Of the embeddings; its ``head`` is empty.
        head: None leaves them as they are.
    """
    return encoder if head is None else replace(encoder, dim=head.dim, head=head.digest)


def check_head(head: Head, encoder: Fingerprint) -> None:
    """Refuse a head that was not trained on an encoder's embeddings.

    Raises:
        HeadMismatchError: It names both fingerprints.
    """
    if head.encoder != encoder:
        raise HeadMismatchError(
            f"The head {name_of(head)} was trained on another encoder: expected {encoder}, got"
            f" {head.encoder}. Load the encoder that it was trained on, or train a head for this"
            " one."
        )


def short_digest(digest: str) -> str:
    """Return the first 12 hexadecimal digits of a digest, for people; of an empty one, nothing."""
    return digest.removeprefix("sha256:")[:12]


def name_of(head: Head | None) -> str:
    """Return a head's method and short digest, or ``"none"``, for people."""
    return "none" if head is None else f"{head.method} {short_digest(head.digest)}"
