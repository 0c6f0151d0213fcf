"""Deep hashing: binary codes whose Hamming distance follows the similarity of the embeddings.

With ``x`` an embedding of unit length and ``m`` its modality, bit ``i`` of a code is::

    (W_m x)_i > t_m,i

Codes only propose: what they find is compared by its full embedding, which stays as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.heads.base import WeightedHead, Weights
from vla_retrieval.heads.linear import normalised, product, units
from vla_retrieval.projection import Codes
from vla_retrieval.types import Embeddings, Fingerprint, Modality

MIN_BITS, MAX_BITS = 64, 512
"""Fewer bits do not tell entries apart, and more cost as much as they save."""


class HashHead(WeightedHead):
    """Hashes embeddings into codes, and projects nothing.

    Arrays, for ``scene`` and for ``instruction``: ``<modality>.weight``, ``W`` of shape
    ``(bits, dim)``, and ``<modality>.threshold``, ``t`` of shape ``(bits,)``.
    """

    METHOD = "hash"

    def __init__(self, encoder: Fingerprint, weights: Weights) -> None:
        super().__init__(encoder, weights)
        self._maps = {m: weights[f"{m.value}.weight"].astype(np.float64).T.copy() for m in Modality}
        self._thresholds = {m: weights[f"{m.value}.threshold"].astype(np.float64) for m in Modality}
        check_bits(self.bits)

    @classmethod
    def initial(cls, encoder: Fingerprint, bits: int, seed: int = 0) -> HashHead:
        """Return an untrained head: random hyperplanes through the origin.

        Charikar, "Similarity estimation techniques from rounding algorithms", 2002; orthogonal as
        far as there are dimensions (Ji et al., "Super-bit locality-sensitive hashing", 2012).

        Raises:
            InvalidInputError: If ``bits`` is not a multiple of 8 from 64 to 512.
        """
        check_bits(bits)
        weight = orthogonal(bits, encoder.dim, seed).astype(np.float32)
        zeros = np.zeros(bits, np.float32)
        return cls(
            encoder,
            {f"{m.value}.weight": weight for m in Modality}
            | {f"{m.value}.threshold": zeros for m in Modality},
        )

    @staticmethod
    def shapes(dim: int, weights: Weights) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array; the number of bits is that of the weights."""
        bits = np.size(weights.get("scene.threshold", np.zeros(MIN_BITS)))
        found: dict[str, tuple[int, ...]] = {}
        for modality in Modality:
            found[f"{modality.value}.weight"] = (bits, dim)
            found[f"{modality.value}.threshold"] = (bits,)
        return found

    @property
    def bits(self) -> int:
        """Length of a code in bits."""
        return int(self.weights["scene.threshold"].shape[0])

    def project(self, embeddings: Embeddings, modality: Modality) -> Embeddings:
        """Return the embeddings, at unit length: what codes find is compared by those."""
        return normalised(units(embeddings, self.encoder.dim))

    def codes(self, embeddings: Embeddings, modality: Modality) -> Codes:
        """Hash embeddings of one modality, as ``projection.Head`` says."""
        rows = product(units(embeddings, self.encoder.dim), self._maps[modality])
        return np.packbits(rows > self._thresholds[modality], axis=1)


def check_bits(bits: int) -> None:
    """Check the length of a code.

    Raises:
        InvalidInputError: If it is not a multiple of 8 from 64 to 512.
    """
    if not MIN_BITS <= bits <= MAX_BITS or bits % 8:
        raise InvalidInputError("bits", f"a multiple of 8 from {MIN_BITS} to {MAX_BITS}", str(bits))


def orthogonal(rows: int, dim: int, seed: int) -> NDArray[np.float64]:
    """Return random unit rows, orthogonal within each group of ``dim``.

    Returns:
        Float64, shape ``(rows, dim)``.
    """
    rng = np.random.default_rng(seed)
    groups = [np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(-(-rows // dim))]
    found: NDArray[np.float64] = np.concatenate(groups)[:rows]
    return found
