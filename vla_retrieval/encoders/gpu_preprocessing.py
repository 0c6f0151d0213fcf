"""Image preprocessing on a GPU: pixels go there as they came, and are resized and normalised there.

A frame's way: those of its pixels that the model will see are copied into pinned memory, and from
there to the GPU while the CPU goes on. Single frames, which is what a robot has, are resized by
a CUDA graph that is recorded when their size comes for the second time; many frames of one size go
in chunks, each copied by several threads while the GPU still works on the one before.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vla_retrieval.encoders.batching import BatchLimit
from vla_retrieval.encoders.cuda_graphs import NOBODY_RECORDS, RecordedTower, Tower
from vla_retrieval.encoders.preprocessing import (
    PreprocessSpec,
    grows_without_bound,
    middle,
    paste,
    resize_middle,
    resized_size,
)
from vla_retrieval.encoders.resampling import Axis, Resampling
from vla_retrieval.types import RgbImage

UInt8Array = npt.NDArray[np.uint8]

_CHUNK_BYTES = 512 << 20
"""Most memory of a GPU that resizing takes at a time."""

_MOST_COPIERS = 16
_LEAST_SHARED = 4
"""Images from which on several threads copy them."""

_KNOWN_SIZES = 8


@dataclass(frozen=True)
class _Kind:
    """What images have in common that are resized together."""

    height: int
    width: int
    is_bgr: bool

    @classmethod
    def of(cls, image: RgbImage) -> _Kind:
        """A view of bgr8 pixels as RGB has a negative stride, which is slow to copy."""
        return cls(image.shape[0], image.shape[1], image.strides[2] < 0)


class GpuPreprocessor:
    """Resizes and normalises where the model runs.

    Safe under concurrent calls.

    Args:
        spec: Must be native.
        device: Of the model; a GPU, or any other for tests.
    """

    def __init__(self, spec: PreprocessSpec, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (spec.mean, spec.std))
        # On the device from the start: a copy from the CPU cannot be recorded in a CUDA graph.
        self._scale, self._shift = (
            values.to(device, torch.float32).view(3, 1, 1)
            for values in (1.0 / (255.0 * std), -mean / std)
        )
        self._resizers: dict[_Kind, _Resizer] = {}
        self._lock = threading.Lock()  # protects the above
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def prepare(self, images: Sequence[RgbImage]) -> torch.Tensor:
        """Return the resized and cropped pixels: uint8, ``(n, 3, height, width)``, on the device.

        The call does not wait until they are there, but for a size that is recorded.
        """
        spec = self._spec
        size = (len(images), 3, spec.height, spec.width)
        out = torch.empty(size, dtype=torch.uint8, device=self._device)
        padding = spec.fill_color if spec.resize_mode == "longest" else 0
        first = 0
        for kind, group in itertools.groupby(images, _Kind.of):
            for resized in self._resized(kind, list(group)):
                paste(resized, out[first : first + len(resized)], padding)
                first += len(resized)
        return out

    def example(self, device: torch.device) -> torch.Tensor:
        """Return one prepared image of zeros on a device."""
        size = (1, 3, self._spec.height, self._spec.width)
        return torch.zeros(size, dtype=torch.uint8, device=device)

    def normalize(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return ``(pixel / 255 - mean) / std`` as float32, up to rounding in the last place."""
        return prepared.to(torch.float32).mul_(self._scale).add_(self._shift)

    def _resized(self, kind: _Kind, images: list[RgbImage]) -> Iterator[torch.Tensor]:
        """Yield images of one kind, uint8 ``(m, 3, h, w)``, no larger than the model's."""
        if grows_without_bound(self._spec, kind.height, kind.width):
            for image in images:
                yield resize_middle(self._spec, image)[None].to(self._device)
            return
        resizer = self._resizer(kind)
        for start in range(0, len(images), resizer.chunk):
            staged = resizer.staged(images[start : start + resizer.chunk])
            yield resizer.limit.run(lambda part: resizer.resize(self._upload(part)), staged)

    @property
    def warning(self) -> str:
        """That the GPU's memory does not do for the chunks wanted, or nothing."""
        with self._lock:
            return next(filter(None, (r.limit.warning for r in self._resizers.values())), "")

    def _resizer(self, kind: _Kind) -> _Resizer:
        with self._lock:
            found = self._resizers.get(kind)
        # Not under the lock: cameras of sizes that are known do not wait for a new one.
        found = found or _Resizer(self._spec, kind, self._device)
        with self._lock:
            found = self._resizers.pop(kind, found)
            self._resizers[kind] = found  # the last one used is the last one forgotten
            if len(self._resizers) > _KNOWN_SIZES:
                del self._resizers[next(iter(self._resizers))]
            return found

    def _upload(self, staged: torch.Tensor) -> torch.Tensor:
        """Return pixels on the device; those of many images go there beside its other work."""
        if self._copies is None or len(staged) == 1:
            return staged.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        with NOBODY_RECORDS:
            # The device around it, or a process that has nothing on device 0 gets a context there.
            with torch.cuda.device(self._device), torch.cuda.stream(self._copies):
                there = staged.to(self._device, non_blocking=True)
            current.wait_stream(self._copies)
            there.record_stream(current)
        return there


class _Resizer:
    """Images of one kind, from arrays to the pixels that a model sees.

    Args:
        spec: Of the model.
        kind: Of the images.
        device: Where they are resized.
    """

    def __init__(self, spec: PreprocessSpec, kind: _Kind, device: torch.device) -> None:
        height, width = resized_size(spec, kind.height, kind.width)
        mode = spec.filter.value
        resample = Resampling(
            Axis(kind.height, height, middle(height, spec.height), mode),
            Axis(kind.width, width, middle(width, spec.width), mode),
            device,
        )
        self._kind = kind
        self._rows, self._columns = resample.rows, resample.columns
        self._is_pinned = device.type == "cuda"
        # Nothing that refers to this object: with its last user the GPU's memory is free again.
        resize = functools.partial(_in_rgb, resample, kind.is_bgr)
        self._resize: Tower = RecordedTower(resize, [], batch_size=1) if self._is_pinned else resize
        self.chunk = max(1, _CHUNK_BYTES // resample.bytes_each)
        what = f"resizing {kind.width} x {kind.height} pixels"
        self.limit = BatchLimit(what, str(device), self.chunk, "send smaller images")

    @property
    def _shape(self) -> tuple[int, int, int]:
        rows, columns = self._rows, self._columns
        return rows.stop - rows.start, columns.stop - columns.start, 3

    def staged(self, images: Sequence[RgbImage]) -> torch.Tensor:
        """Copy what is seen of the images, uint8 ``(n, rows, columns, 3)``, to pinned memory.

        The memory comes from torch's cache, which does not give it to another before the copy to
        the GPU is done.
        """
        size = (len(images), *self._shape)
        out = torch.empty(size, dtype=torch.uint8, pin_memory=self._is_pinned)
        targets = out.numpy()
        if len(images) < _LEAST_SHARED:
            self._copy(targets, images)
            return out
        # One task for each thread: handing over each image took as long as copying it.
        threads = min(_copying_threads(), len(images))
        shares = [slice(first, None, threads) for first in range(threads)]
        copied = [_copiers().submit(self._copy, targets[share], images[share]) for share in shares]
        for part in copied:
            part.result()
        return out

    def resize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize what was staged: uint8, ``(n, 3, h, w)``."""
        with torch.inference_mode():
            return self._resize(pixels)

    def _copy(self, targets: UInt8Array, images: Sequence[RgbImage]) -> None:
        for target, image in zip(targets, images, strict=True):
            pixels = image[..., ::-1] if self._kind.is_bgr else image
            np.copyto(target, pixels[self._rows, self._columns])


def _in_rgb(resample: Resampling, is_bgr: bool, pixels: torch.Tensor) -> torch.Tensor:
    return resample(pixels.flip(3) if is_bgr else pixels)


def _copying_threads() -> int:
    return min(_MOST_COPIERS, len(os.sched_getaffinity(0)))


@functools.cache
def _copiers() -> ThreadPoolExecutor:
    """Threads that copy pixels, of this whole process."""
    return ThreadPoolExecutor(_copying_threads(), "pixels")
