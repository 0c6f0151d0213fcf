"""Resizing on a GPU: two matrix products for all images of one size.

A resize is linear along each axis, so its weights are a matrix. Torch's own antialiased
`interpolate` on a GPU takes one thread for each pixel; as products on the matrix units the same
sums took a quarter of the time (256 images of 640 x 480 on an H200: 2.6 ms instead of 9.9).
The weights are those of torch's filters (`aten/src/ATen/native/cpu/UpSampleKernel.cpp`), and a
test compares them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from vla_retrieval.encoders.shortage import is_shortage

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """How one side of an image is resized.

    Attributes:
        size: Pixels of the source.
        resized: Pixels of the whole result.
        kept: The part of the result that is wanted.
        mode: ``bicubic`` or ``bilinear``.
    """

    size: int
    resized: int
    kept: slice
    mode: str

    @functools.cached_property
    def weights(self) -> tuple[slice, torch.Tensor]:
        """The source pixels that have a part in the result, and their weights.

        Returns:
            The pixels, and float64 of shape ``(len(pixels), len(kept))``.
        """
        reach, filtered = _FILTERS[self.mode]
        scale = self.size / self.resized
        stretch = max(scale, 1.0)  # what shrinks is averaged over more pixels
        centres = scale * (np.arange(self.kept.start, self.kept.stop) + 0.5)
        first = np.maximum((centres - reach * stretch + 0.5).astype(np.int64), 0)
        last = np.minimum((centres + reach * stretch + 0.5).astype(np.int64), self.size)
        pixels = slice(int(first.min()), int(last.max()))
        at = np.arange(pixels.start, pixels.stop)[:, None]
        values = filtered((at + 0.5 - centres) / stretch)
        values[(at < first) | (at >= last)] = 0.0
        return pixels, torch.from_numpy(values / values.sum(axis=0))


def _triangle(x: Floats) -> Floats:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: Floats) -> Floats:
    """Keys' cubic convolution with a = -0.5, as Pillow and torch take it to antialias."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS: Final[dict[str, tuple[float, Callable[[Floats], Floats]]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
}
"""How many pixels of the result each reaches to a side, and what it is."""


class Resampling:
    """Resizes images of one size and keeps the middle, as the filter for uint8 on a CPU does.

    Horizontally, rounded, then vertically, rounded, like Pillow and torch on a CPU.

    Args:
        vertical: From an image's height to the result's.
        horizontal: From its width.
        device: Where it computes.
    """

    def __init__(self, vertical: Axis, horizontal: Axis, device: torch.device) -> None:
        self.rows, down = vertical.weights
        self.columns, across = horizontal.weights
        make = _Halves if _multiplies_halves(device) else _Floats
        self._across: _Products = make(across, device)
        self._down: _Products = make(down, device)

    @property
    def bytes_each(self) -> int:
        """What one image takes of the device's memory meanwhile, roughly.

        The uint8 and float16 pixels, and both parts, the sum and the rounded sum of each product.
        """
        rows, columns = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        wide, high = self._across.count, self._down.count
        return 3 * (3 * rows * columns + 16 * rows * wide + 16 * high * wide)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize what `rows` and `columns` cut out of the images.

        Args:
            pixels: uint8, shape ``(n, rows, columns, 3)``, on the device.

        Returns:
            uint8, shape ``(n, 3, height, width)``.
        """
        count, rows, columns, _ = pixels.shape
        planes = pixels.new_empty((count, 3, rows, columns), dtype=self._across.dtype)
        planes.copy_(pixels.permute(0, 3, 1, 2))
        lines = _rounded(self._across.on_lines(planes.view(-1, columns)))
        lines = lines.to(self._down.dtype).view(count * 3, rows, -1)
        resized = _rounded(self._down.on_columns(lines)).to(torch.uint8)
        return resized.view(count, 3, *resized.shape[1:])


class _Products(Protocol):
    """Weights that whole numbers up to 255 are multiplied with.

    `dtype` is that of the numbers, `count` how many sums there are; they are float32.
    """

    dtype: torch.dtype
    count: int

    def __init__(self, weights: torch.Tensor, device: torch.device) -> None: ...

    def on_lines(self, lines: torch.Tensor) -> torch.Tensor:
        """Return ``lines @ weights``, ``(m, k)`` by ``(k, count)``."""
        ...

    def on_columns(self, planes: torch.Tensor) -> torch.Tensor:
        """Return ``weights.T @ plane`` for each of ``(m, k, columns)``."""
        ...


class _Floats:
    """In float32."""

    dtype = torch.float32

    def __init__(self, weights: torch.Tensor, device: torch.device) -> None:
        self.count = weights.shape[1]
        self._weights = weights.to(device, torch.float32)

    def on_lines(self, lines: torch.Tensor) -> torch.Tensor:
        return lines @ self._weights

    def on_columns(self, planes: torch.Tensor) -> torch.Tensor:
        return torch.bmm(self._weights.T.expand(len(planes), -1, -1), planes)


class _Halves:
    """In float16, which holds the pixels exactly, with weights of two parts, which add up.

    With weights of one float16 each, embeddings were moved by two thousandths of the distance
    between images, twenty times as far.
    """

    dtype = torch.float16

    def __init__(self, weights: torch.Tensor, device: torch.device) -> None:
        self.count = weights.shape[1]
        coarse = weights.to(torch.float16)
        fine = (weights - coarse).to(torch.float16)
        self._weights = torch.cat((coarse, fine), dim=1).to(device)
        self._turned = self._weights.T.contiguous()

    def on_lines(self, lines: torch.Tensor) -> torch.Tensor:
        both = torch.mm(lines, self._weights, out_dtype=torch.float32)
        return both[:, : self.count] + both[:, self.count :]

    def on_columns(self, planes: torch.Tensor) -> torch.Tensor:
        turned = self._turned.expand(len(planes), -1, -1)
        both = torch.bmm(turned, planes, out_dtype=torch.float32)
        return both[:, : self.count] + both[:, self.count :]


@functools.cache
def _multiplies_halves(device: torch.device) -> bool:
    """Whether torch multiplies float16 with sums in float32: on GPUs, from release 2.8 on.

    Raises:
        RuntimeError: If the device has no memory left to try it.
    """
    if device.type != "cuda":
        return False
    try:
        one = torch.ones((16, 16), dtype=torch.float16, device=device)
        torch.mm(one, one, out_dtype=torch.float32)
        torch.bmm(one[None], one[None], out_dtype=torch.float32)
    except (TypeError, NotImplementedError):
        return False
    except RuntimeError as error:
        if is_shortage(error, device):
            raise
        return False
    return True


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.round_().clamp_(0, 255)
