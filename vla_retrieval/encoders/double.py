"""An encoder for tests: no torch, no weights, the same vectors on every machine.

Its vectors mean something, but little. Two images are near when their colours and their coarse
layout are; two texts when they share character sequences; an image and a text when the text
names a colour that the image has. That is enough to tell a right answer from a wrong one in a
test, and it is no retrieval model.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.encoders.checks import check_images, check_texts
from vla_retrieval.encoders.settings import DOUBLE_MODEL
from vla_retrieval.types import Embeddings, Fingerprint, RgbImage

_GRID = 8
_BUCKETS = 512
_SEED = 20240229

_COLOURS: dict[tuple[int, int, int], tuple[str, ...]] = {
    (220, 30, 30): ("red", "红"),
    (30, 170, 50): ("green", "绿"),
    (30, 60, 210): ("blue", "蓝"),
    (235, 215, 40): ("yellow", "黄"),
    (240, 240, 240): ("white", "白"),
    (15, 15, 15): ("black", "黑"),
    (240, 130, 20): ("orange", "橙"),
    (130, 40, 160): ("purple", "紫"),
}
_ANCHORS = np.array(list(_COLOURS), dtype=np.float32)

_IMAGE_FEATURES = _GRID * _GRID * 3 + len(_COLOURS)
_COLOUR_SHARE = 0.7
"""How much of a vector is the named colours, where there are any, and how much the rest."""


class DoubleEncoder:
    """A deterministic test double of `vla_retrieval.encoders.protocol.Encoder`.

    It keeps no state between calls, so any number of threads may call it.

    Args:
        dim: Length of an embedding, at least 16.
    """

    def __init__(self, dim: int = 64) -> None:
        if dim < 2 * len(_COLOURS):
            raise ValueError(f"dim: expected at least {2 * len(_COLOURS)}, got {dim}")
        rng = np.random.default_rng(_SEED)
        self._dim = dim
        # Rows of one orthogonal matrix: a colour looks like no other colour.
        basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        self._colours = basis[: len(_COLOURS)].astype(np.float32)
        self._image_projection = _projection(rng, _IMAGE_FEATURES, dim)
        self._text_projection = _projection(rng, _BUCKETS, dim)
        digest = hashlib.sha256(f"double {_SEED} {_GRID} {_BUCKETS} {dim}".encode())
        self._fingerprint = Fingerprint(
            DOUBLE_MODEL, f"sha256:{digest.hexdigest()}", f"{_GRID}x{_GRID} mean colours", dim
        )

    @property
    def fingerprint(self) -> Fingerprint:
        """What the embeddings are made with."""
        return self._fingerprint

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._dim

    @property
    def device(self) -> str:
        """Always ``"cpu"``."""
        return "cpu"

    @property
    def engine(self) -> str:
        """Always ``"double"``."""
        return DOUBLE_MODEL

    @property
    def engine_reason(self) -> str:
        """Say that there is no other."""
        return "the test double computes itself"

    @property
    def precision(self) -> str:
        """Always ``"fp32"``."""
        return "fp32"

    @property
    def warning(self) -> str:
        """Always empty."""
        return ""

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        """Embed images by their coarse layout and their share of each named colour."""
        check_images(images)
        rows = [self._embed_image(image) for image in images]
        return np.stack(rows) if rows else np.zeros((0, self._dim), np.float32)

    def encode_instructions(self, texts: Sequence[str]) -> Embeddings:
        """Embed instructions by their character n-grams and the colours that they name."""
        check_texts(texts)
        rows = [self._embed_text(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self._dim), np.float32)

    def warm_up(self) -> None:
        """Do nothing: there is nothing to warm."""

    def _embed_image(self, image: RgbImage) -> Embeddings:
        grid = _mean_grid(image)
        distances = np.square(grid.reshape(-1, 1, 3) - _ANCHORS).sum(axis=2)
        shares = np.bincount(distances.argmin(axis=1), minlength=len(_COLOURS)) / len(distances)
        features = np.concatenate([grid.ravel() / 127.5 - 1.0, shares]).astype(np.float32)
        return self._mix(shares.astype(np.float32), features @ self._image_projection)

    def _embed_text(self, text: str) -> Embeddings:
        lowered = text.lower()
        named = np.array(
            [any(word in lowered for word in words) for words in _COLOURS.values()], np.float32
        )
        return self._mix(named, _hash_ngrams(lowered) @ self._text_projection)

    def _mix(self, colours: NDArray[np.float32], rest: NDArray[np.float32]) -> Embeddings:
        vector: Embeddings = _COLOUR_SHARE * _unit(colours @ self._colours)
        vector = vector + (1.0 - _COLOUR_SHARE) * _unit(rest)
        return _unit(vector).astype(np.float32)


def _projection(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    return rng.standard_normal((rows, columns)).astype(np.float32)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm > 0.0 else vector


def _mean_grid(image: RgbImage) -> NDArray[np.float32]:
    """Return the mean colour of each cell of a grid, shape ``(_GRID, _GRID, 3)``."""
    rows = np.linspace(0, image.shape[0], _GRID + 1)
    columns = np.linspace(0, image.shape[1], _GRID + 1)
    cells = np.empty((_GRID, _GRID, 3), np.float32)
    for i in range(_GRID):
        top, bottom = int(rows[i]), max(int(rows[i]) + 1, int(rows[i + 1]))
        for j in range(_GRID):
            left, right = int(columns[j]), max(int(columns[j]) + 1, int(columns[j + 1]))
            cells[i, j] = image[top:bottom, left:right].mean(axis=(0, 1))
    return cells


def _hash_ngrams(text: str) -> NDArray[np.float32]:
    """Count character n-grams, n in 1..3, in hashed buckets, shape ``(_BUCKETS,)``."""
    counts = np.zeros(_BUCKETS, np.float32)
    padded = f" {text} "
    for n in (1, 2, 3):
        for start in range(len(padded) - n + 1):
            # crc32 and not hash(): the latter is salted anew in every process.
            value = zlib.crc32(padded[start : start + n].encode())
            counts[value % _BUCKETS] += 1.0 if value & 0x10000 else -1.0
    if not counts.any():  # signs may cancel out in a short text
        counts[zlib.crc32(text.encode()) % _BUCKETS] = 1.0
    return counts
