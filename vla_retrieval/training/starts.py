"""What learning begins with: solutions in closed form, which learn no episode by heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_retrieval.heads import HashHead, MetricHead
from vla_retrieval.training.closed import between, itq, whitening, within
from vla_retrieval.training.data import Pairs, codes_of
from vla_retrieval.types import Modality

SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
EMPHASES = (0.0, 1.0)
"""How much longer than all others the axes of the tasks are made. On rendered scenes, 2 and more
found tasks a little better that were learned from, and tasks that were not worse than the encoder
alone does; 1 finds those better as well."""


@dataclass(frozen=True, eq=False)
class Start:
    """A metric to begin with.

    Attributes:
        name: For people.
        head: That computes it.
    """

    name: str
    head: MetricHead


def starts(pairs: Pairs) -> list[Start]:
    """Return the identity, and linear discriminants of the labels (Fisher 1936).

    How scenes of one label differ is whitened, with the covariance shrunk more or less. What is
    then emphasised are the axes along which labels differ in both modalities. Each modality has a
    centre of its own, which takes away what only tells the modalities apart.

    Args:
        pairs: To learn from.
    """
    rows = {m: pairs.half(m).astype(np.float64) for m in Modality}
    centres = {m: rows[m].mean(axis=0) for m in Modality}
    labels = codes_of(pairs.labels)
    inner = within(rows[Modality.SCENE], labels)
    found = [Start("the identity", MetricHead.identity(pairs.encoder))]
    for shrinkage in SHRINKAGES:
        white = whitening(inner, shrinkage)
        axes = between(((rows[m] - centres[m]) @ white.T for m in Modality), labels)
        for emphasis in EMPHASES:
            weights = {"weight": (white + emphasis * axes.T @ (axes @ white)).astype(np.float32)}
            weights |= {f"{m.value}.centre": centres[m].astype(np.float32) for m in Modality}
            name = "whitening within tasks" + ", their axes emphasised" * bool(emphasis)
            found.append(Start(name, MetricHead(pairs.encoder, weights)))
    return found


def hash_start(pairs: Pairs, space: Start, bits: int, seed: int) -> tuple[HashHead, str]:
    """Return codes by iterative quantization, and their name.

    Half of the bits keep the layout of the embeddings, so that what the encoder finds is proposed,
    and half that of a learned space, so that what belongs to a task is. Where no space is better
    than the embeddings, all bits keep theirs.

    Args:
        pairs: To learn from.
        space: What was learned.
        bits: Length of a code.
        seed: Of the rotations.
    """
    rows = {m: pairs.half(m).astype(np.float64) for m in Modality}
    means = {m: rows[m].mean(axis=0) for m in Modality}
    centred = np.concatenate([rows[m] - means[m] for m in Modality])
    if space.head.digest == MetricHead.identity(pairs.encoder).digest:
        planes, name = itq(centred, bits, seed), "iterative quantization"
    else:
        weight = space.head.weights["weight"].astype(np.float64)
        learned = itq(centred @ weight.T, bits - bits // 2, seed) @ weight
        planes = np.concatenate([itq(centred, bits // 2, seed), learned])
        name = f"iterative quantization, half of the embeddings, half after {space.name}"
    planes = planes / np.linalg.norm(planes, axis=1, keepdims=True)
    weights = {}
    for m in Modality:
        weights[f"{m.value}.weight"] = planes.astype(np.float32)
        weights[f"{m.value}.threshold"] = (planes @ means[m]).astype(np.float32)
    return HashHead(pairs.encoder, weights), name
