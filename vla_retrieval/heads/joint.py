"""Joint embedding: an affine map of each modality, so that pairs of the robot's own come together.

With ``x`` an embedding of unit length and ``m`` its modality::

    y = normalise(x + A_m x + b_m)

Zeros in ``A`` and ``b`` make it the identity. It stays affine so that the way from the identity to
what was trained is a straight line in the weights, along which training chooses a place
(Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).
"""

from __future__ import annotations

import numpy as np

from vla_retrieval.heads.base import WeightedHead, Weights
from vla_retrieval.heads.linear import normalised, product, units
from vla_retrieval.types import Embeddings, Fingerprint, Modality


class JointHead(WeightedHead):
    """Projects both modalities into one space.

    Arrays, for ``scene`` and for ``instruction``: ``<modality>.weight``, ``A`` of shape
    ``(dim, dim)``, and ``<modality>.bias``, ``b`` of shape ``(dim,)``.
    """

    METHOD = "joint"

    def __init__(self, encoder: Fingerprint, weights: Weights) -> None:
        super().__init__(encoder, weights)
        self._maps = {m: weights[f"{m.value}.weight"].astype(np.float64).T.copy() for m in Modality}
        self._biases = {m: weights[f"{m.value}.bias"].astype(np.float64) for m in Modality}

    @classmethod
    def identity(cls, encoder: Fingerprint) -> JointHead:
        """Return a head that changes nothing."""
        shapes = cls.shapes(encoder.dim, {})
        return cls(encoder, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})

    @staticmethod
    def shapes(dim: int, weights: Weights) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array."""
        found: dict[str, tuple[int, ...]] = {}
        for modality in Modality:
            found[f"{modality.value}.weight"] = (dim, dim)
            found[f"{modality.value}.bias"] = (dim,)
        return found

    def project(self, embeddings: Embeddings, modality: Modality) -> Embeddings:
        """Project embeddings of one modality, as ``projection.Head`` says."""
        rows = units(embeddings, self.encoder.dim)
        return normalised(rows + product(rows, self._maps[modality]) + self._biases[modality])
