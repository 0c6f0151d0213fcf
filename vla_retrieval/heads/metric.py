"""Metric learning: a linear map after which the cosine is the learned measure of likeness.

With ``x`` an embedding of unit length and ``m`` its modality::

    y = normalise(L (x - c_m))

so that ``L^T L`` is the matrix of a Mahalanobis form (Xing et al., "Distance metric learning with
application to clustering with side-information", 2002) around the centre of the modality. The
identity for ``L`` and zeros for ``c`` change nothing.
"""

from __future__ import annotations

import numpy as np

from vla_retrieval.heads.base import WeightedHead, Weights
from vla_retrieval.heads.linear import normalised, product, units
from vla_retrieval.types import Embeddings, Fingerprint, Modality


class MetricHead(WeightedHead):
    """Projects into the space of a learned metric, of ``rank`` dimensions.

    Arrays: ``weight``, ``L`` of shape ``(rank, dim)``, ``scene.centre`` and ``instruction.centre``
    of shape ``(dim,)``.
    """

    METHOD = "metric"

    def __init__(self, encoder: Fingerprint, weights: Weights) -> None:
        super().__init__(encoder, weights)
        self._map = weights["weight"].astype(np.float64).T.copy()
        self._centres = {m: weights[f"{m.value}.centre"].astype(np.float64) for m in Modality}

    @classmethod
    def identity(cls, encoder: Fingerprint) -> MetricHead:
        """Return a head that changes nothing."""
        zeros = np.zeros(encoder.dim, np.float32)
        weight = np.eye(encoder.dim, dtype=np.float32)
        return cls(encoder, {"weight": weight, "scene.centre": zeros, "instruction.centre": zeros})

    @staticmethod
    def shapes(dim: int, weights: Weights) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array; the rank is that of the weights, at least 1."""
        rank = max(1, len(np.atleast_2d(weights.get("weight", np.zeros((1, 1))))))
        return {"weight": (rank, dim), "scene.centre": (dim,), "instruction.centre": (dim,)}

    @property
    def dim(self) -> int:
        """Length of what ``project`` returns: the rank of the metric."""
        return int(self._map.shape[1])

    def project(self, embeddings: Embeddings, modality: Modality) -> Embeddings:
        """Project embeddings of one modality, as ``projection.Head`` says."""
        rows = units(embeddings, self.encoder.dim) - self._centres[modality]
        return normalised(product(rows, self._map))
