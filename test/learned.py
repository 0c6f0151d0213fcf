"""Heads to use in tests of what uses heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla_retrieval.heads import JointHead, WeightedHead, save_head
from vla_retrieval.types import Fingerprint, Modality


def turned_head(encoder: Fingerprint, seed: int) -> JointHead:
    """Return a head that turns each modality in its own way."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {}
    for modality in Modality:
        turn = np.linalg.qr(rng.standard_normal((encoder.dim, encoder.dim)))[0]
        weights[f"{modality.value}.weight"] = (turn - np.eye(encoder.dim)).astype(np.float32)
        weights[f"{modality.value}.bias"] = np.zeros(encoder.dim, np.float32)
    return JointHead(encoder, weights)


def written(head: WeightedHead, path: Path) -> Path:
    """Write a head to a file that is not there yet; return its path."""
    save_head(head, path)
    return path
