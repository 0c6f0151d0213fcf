"""Scene-instruction pairs as vectors, made from a seed, for galleries of up to millions.

The vectors have what makes cross-modal search hard: scenes and instructions lie in two different
cones (the modality gap: Liang et al., Mind the Gap, NeurIPS 2022), an instruction is nearly equally
far from everything it fits, and the entries come in clusters whose centres live in few dimensions
with a decaying spectrum. A scene is a sum of parts that are orthogonal to each other::

    scene       = unit(gap_s + semantic + visual + noise)
    instruction = unit(gap_t + semantic + language + noise)

``semantic`` is shared by the two halves of an entry; each part but the gap is the centre of its
cluster plus a deviation of its own. Held-out queries come from the same clusters by another seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

CHUNK: Final = 16_384
"""Rows made at a time: 32 MB a half at 512 dimensions."""

_LATENTS: Final = {"semantic": 64, "visual": 96, "language": 64}
_GAP_COSINE: Final = 0.25  # between the axes of the two cones
# Shares of the squared length of a scene and of an instruction.
_SCENE_PARTS: Final = {"gap": 0.42, "semantic": 0.25, "visual": 0.27, "noise": 0.06}
_INSTRUCTION_PARTS: Final = {"gap": 0.40, "semantic": 0.25, "language": 0.29, "noise": 0.06}
_RUN: Final = 10  # a robot at work sees one cluster for a while
_STREAMS: Final = {"clusters": 0, "gallery": 1, "queries": 2, "centres": 3, "axes": 4}


@dataclass(frozen=True)
class Setting:
    """How hard the gallery is.

    Attributes:
        name: Of the setting.
        clusters: How many, or None for one in 50 entries.
        deviation: Share of the squared length of semantic, visual and language parts that an
            entry has for itself; the rest is its cluster's.
    """

    name: str
    clusters: int | None
    deviation: float

    def cluster_count(self, size: int) -> int:
        """The number of clusters of a gallery of this size."""
        return max(1, size // 50) if self.clusters is None else self.clusters


SETTINGS: Final = {
    "clustered": Setting("clustered", None, 0.25),
    "diffuse": Setting("diffuse", 2000, 0.5),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the vectors.

    Attributes:
        size: Entries in the gallery.
        setting: A name in ``SETTINGS``.
        dim: Length of a vector, at least 256.
        seed: Equal seeds make equal vectors.
    """

    size: int
    setting: str = "clustered"
    dim: int = 512
    seed: int = 20261123

    @property
    def folder_name(self) -> str:
        """A name that differs where the vectors differ."""
        return f"{self.setting}-{self.size}x{self.dim}-{self.seed}"


@dataclass(frozen=True)
class Pairs:
    """Both halves of some entries, row by row.

    Attributes:
        scenes: Shape ``(n, dim)``, unit length.
        instructions: Shape ``(n, dim)``, unit length.
    """

    scenes: FloatArray
    instructions: FloatArray

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.scenes)


class Generator:
    """Makes pairs, a chunk at a time and each chunk alone.

    Args:
        recipe: What to make.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._setting = SETTINGS[recipe.setting]
        self._clusters = self._setting.cluster_count(recipe.size)
        rng = self._rng("centres")
        self._centres = {
            part: _latents(rng, self._clusters, width) for part, width in _LATENTS.items()
        }
        axes = np.linalg.qr(self._rng("axes").standard_normal((recipe.dim, 2 + _width())))[0].T
        self._gaps = {
            "scene": axes[0],
            "instruction": _GAP_COSINE * axes[0] + np.sqrt(1 - _GAP_COSINE**2) * axes[1],
        }
        self._axes, start = {}, 2
        for part, width in _LATENTS.items():
            self._axes[part] = axes[start : start + width].astype(np.float32)
            start += width

    def gallery(self) -> Iterator[Pairs]:
        """The entries of the gallery, in chunks."""
        for start in range(0, self._recipe.size, CHUNK):
            rows = np.arange(start, min(start + CHUNK, self._recipe.size))
            yield self._pairs(self.clusters(rows), self._rng("gallery", start // CHUNK))

    def queries(self, count: int) -> Pairs:
        """Pairs that are not in the gallery, from its clusters."""
        rng = self._rng("queries")
        return self._pairs(rng.integers(self._clusters, size=count), rng)

    def clusters(self, rows: IntArray) -> IntArray:
        """The cluster of each row of the gallery."""
        runs = self._rng("clusters").integers(self._clusters, size=self._recipe.size // _RUN + 1)
        return np.asarray(runs[rows // _RUN], dtype=np.int64)

    def _pairs(self, clusters: IntArray, rng: np.random.Generator) -> Pairs:
        share = self._setting.deviation
        parts = {}
        for part, width in _LATENTS.items():
            own = _latents(rng, len(clusters), width)
            latent = np.sqrt(1 - share) * self._centres[part][clusters] + np.sqrt(share) * own
            parts[part] = latent @ self._axes[part]
        return Pairs(
            self._half("scene", _SCENE_PARTS, parts, rng),
            self._half("instruction", _INSTRUCTION_PARTS, parts, rng),
        )

    def _half(
        self,
        half: str,
        shares: dict[str, float],
        parts: dict[str, FloatArray],
        rng: np.random.Generator,
    ) -> FloatArray:
        shape = parts["semantic"].shape
        vectors = rng.standard_normal(shape, dtype=np.float32)
        vectors *= np.float32(np.sqrt(shares["noise"] / shape[1]))
        vectors += (np.sqrt(shares["gap"]) * self._gaps[half]).astype(np.float32)
        for part, latent in parts.items():
            if part in shares:
                vectors += np.float32(np.sqrt(shares[part])) * latent
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _rng(self, stream: str, chunk: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._recipe.seed, _STREAMS[stream], chunk])


def stored_gallery(recipe: Recipe, work: Path) -> Pairs:
    """The gallery as read-only maps of files, made first where they are not there yet.

    Args:
        recipe: What to make.
        work: The folder that keeps it for the next call.
    """
    folder = work / recipe.folder_name
    done = folder / "recipe.json"
    names = [folder / "scenes.npy", folder / "instructions.npy"]
    wanted = json.dumps(asdict(recipe))
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        shape = (recipe.size, recipe.dim)
        halves = [np.lib.format.open_memmap(n, "w+", np.float32, shape) for n in names]
        start = 0
        for pairs in Generator(recipe).gallery():
            for half, vectors in zip(halves, (pairs.scenes, pairs.instructions), strict=True):
                half[start : start + len(pairs)] = vectors
            start += len(pairs)
        for half in halves:
            half.flush()
        done.write_text(wanted, encoding="utf-8")
    return Pairs(*(np.load(name, mmap_mode="r") for name in names))


def _latents(rng: np.random.Generator, count: int, width: int) -> FloatArray:
    """Unit vectors whose coordinates have variances that fall as 1 / rank."""
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** np.float32(-0.5)
    latents = rng.standard_normal((count, width), dtype=np.float32) * spectrum
    latents /= np.linalg.norm(latents, axis=1, keepdims=True)
    return latents


def _width() -> int:
    return sum(_LATENTS.values())
