"""Heads: what is learned on top of the frozen encoder, one file each.

``load_head`` is the door. A head is plain numpy; torch is needed to train one and not to use it.

======  ==================================  ======================================================
method  class                               what it computes
======  ==================================  ======================================================
joint   `vla_retrieval.heads.joint`         an affine map of each modality, in one common space
metric  `vla_retrieval.heads.metric`        one linear map, after which cosine is the learned metric
hash    `vla_retrieval.heads.hashing`       binary codes; embeddings stay as they are
======  ==================================  ======================================================

A new head is one class that derives from `vla_retrieval.heads.base.WeightedHead` and one line in
``METHODS``.
"""

from __future__ import annotations

from vla_retrieval.heads.base import WeightedHead, Weights
from vla_retrieval.heads.file import METHODS, load_head, read_record, save_head
from vla_retrieval.heads.hashing import HashHead
from vla_retrieval.heads.joint import JointHead
from vla_retrieval.heads.metric import MetricHead

__all__ = [
    "METHODS",
    "HashHead",
    "JointHead",
    "MetricHead",
    "WeightedHead",
    "Weights",
    "load_head",
    "read_record",
    "save_head",
]
