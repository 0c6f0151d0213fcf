"""Image preprocessing as open_clip does it, straight from uint8 arrays.

open_clip's own transform goes through PIL, which takes 5 ms for a VGA image and 12 to 15 ms
for 720p. What torch's antialiased `interpolate` does with the uint8 array, seen as a channels-last
tensor, is the same filter.

Both filter horizontally, round to uint8, and filter vertically. Their pixels differ by at most
2 steps of 255 (bicubic) or 1 (bilinear). From version 13 on, Pillow filters vertically first
where the height shrinks much more than the width (python-pillow/Pillow#9549), which shows
where bicubic overshoots are clipped between the passes. Here the order never changes: it is
the one that published models were trained with, and embeddings must not depend on the
version of an image library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from vla_retrieval.errors import EncoderError
from vla_retrieval.types import RgbImage

_MODES = ("shortest", "longest", "squash")
_INTERPOLATIONS = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
    # open_clip draws it at random for training only, and infers with bicubic.
    "random": InterpolationMode.BICUBIC,
}
_PIL_FILTERS = {
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
}
_RESAMPLE = {
    InterpolationMode.BICUBIC: torch.ops.aten._upsample_bicubic2d_aa.default,
    InterpolationMode.BILINEAR: torch.ops.aten._upsample_bilinear2d_aa.default,
}
_MAX_GROWTH = 16
"""Most pixels of a resized image, in multiples of those that the model sees of it."""

_REACH = 3
"""Source pixels that a filter reads beside its centre where it enlarges: 2, and one to spare."""


@dataclass(frozen=True)
class PreprocessSpec:
    """What a model wants its images to be.

    Attributes:
        height, width: Of the model's input, in pixels.
        mean, std: Per channel in RGB order, for pixels in [0, 1].
        interpolation: ``bicubic``, ``bilinear`` or ``random``, which is bicubic here.
        resize_mode: ``shortest`` fits the shorter side and crops the middle, ``longest`` fits
            the longer side and pads, ``squash`` ignores the aspect ratio.
        fill_color: Grey value of the padding, in [0, 255].
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int

    @classmethod
    def from_open_clip(cls, cfg: Mapping[str, Any]) -> PreprocessSpec:
        """Read open_clip's ``preprocess_cfg``.

        Raises:
            EncoderError: If a part of it is missing or of another form.
        """
        try:
            size = cfg["size"]
            height, width = (size, size) if isinstance(size, int) else size
            return cls(
                int(height), int(width), _triple(cfg["mean"]), _triple(cfg["std"]),
                str(cfg["interpolation"]), str(cfg["resize_mode"]), int(cfg["fill_color"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise EncoderError(
                "The model's preprocess_cfg is not of open_clip's form: expected size, mean, "
                f"std, interpolation, resize_mode and fill_color, got {dict(cfg)} ({error!r}). "
                "Correct its open_clip_config.json."
            ) from error

    @property
    def is_native(self) -> bool:
        """Whether it is resized here, and not by open_clip."""
        return self.interpolation in _INTERPOLATIONS and self.resize_mode in _MODES

    @property
    def filter(self) -> InterpolationMode:
        """The resampling filter that open_clip really uses."""
        if self.resize_mode == "shortest" and self.height != self.width:
            # Its transform does not pass the interpolation on in this one case.
            return InterpolationMode.BICUBIC
        return _INTERPOLATIONS[self.interpolation]

    def __str__(self) -> str:
        """Return everything that changes a pixel, in one line."""
        name = self.filter.value if self.is_native else self.interpolation
        parts = [
            f"{self.height}x{self.width}", self.resize_mode, name,
            "mean=" + ",".join(f"{v:.6g}" for v in self.mean),
            "std=" + ",".join(f"{v:.6g}" for v in self.std),
        ]  # fmt: skip
        if self.resize_mode == "longest":
            parts.append(f"fill={self.fill_color}")
        return " ".join(parts)


class Preprocessor(Protocol):
    """Makes a model's input from images."""

    def prepare(self, images: Sequence[RgbImage]) -> torch.Tensor:
        """Return uint8 pixels or normalised floats, shape ``(n, 3, height, width)``.

        Args:
            images: Checked, at least one, each uint8 ``(height, width, 3)``, RGB.
        """
        ...

    def example(self, device: torch.device) -> torch.Tensor:
        """Return one prepared image of zeros, as `prepare` gives it, on a device."""
        ...

    def normalize(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return normalised float32 of the same shape, on the device of the model."""
        ...

    @property
    def warning(self) -> str:
        """What a person should know, with the next step; mostly nothing."""
        ...


class UInt8Preprocessor:
    """Resizes uint8 pixels without PIL, and normalises them, on a CPU.

    It holds no state that changes, so any number of threads may call it.

    Args:
        spec: Must be native.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self._spec = spec
        self._filter = spec.filter
        mean, std = np.array(spec.mean), np.array(spec.std)
        self._scale, self._shift = (
            values.astype(np.float32).reshape(3, 1, 1) for values in (1 / (255 * std), -mean / std)
        )

    warning = ""

    def prepare(self, images: Sequence[RgbImage]) -> torch.Tensor:
        """Return the resized and cropped pixels: uint8, ``(n, 3, height, width)``."""
        spec = self._spec
        out = torch.empty((len(images), 3, spec.height, spec.width), dtype=torch.uint8)
        padding = spec.fill_color if spec.resize_mode == "longest" else 0
        for row, image in zip(out, images, strict=True):
            paste(self._resize(image), row, padding)
        return out

    def example(self, device: torch.device) -> torch.Tensor:
        """Return one prepared image of zeros on a device."""
        size = (1, 3, self._spec.height, self._spec.width)
        return torch.zeros(size, dtype=torch.uint8, device=device)

    def normalize(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return ``(pixel / 255 - mean) / std`` as float32, up to rounding in the last place."""
        # torch shares this among threads that wait for each other: 0.02 ms for one image where
        # numpy takes 0.04, but once in a hundred calls 5 to 25 ms where a core is busy.
        normal = np.multiply(prepared.numpy(), self._scale, dtype=np.float32)
        return torch.from_numpy(np.add(normal, self._shift, out=normal))

    def _resize(self, image: RgbImage) -> torch.Tensor:
        """Return as much of the middle of the resized image as the model sees, uint8."""
        if grows_without_bound(self._spec, *image.shape[:2]):
            return resize_middle(self._spec, image)
        height, width = resized_size(self._spec, *image.shape[:2])
        top, left = middle(height, self._spec.height), middle(width, self._spec.width)
        pixels = _as_tensor(image).permute(2, 0, 1)
        resized = _resize_until(pixels, (height, width), (top.stop, left.stop), self._filter)
        return resized[:, top, left]


class PilPreprocessor:
    """open_clip's own transform, for what `UInt8Preprocessor` does not know.

    Args:
        spec: Of any form that open_clip accepts.

    Raises:
        EncoderError: If open_clip does not accept it either.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self._spec = spec
        cfg = PreprocessCfg(
            (spec.height, spec.width), "RGB", spec.mean, spec.std,
            spec.interpolation, spec.resize_mode, spec.fill_color,
        )  # fmt: skip
        try:
            self._transform = image_transform_v2(cfg, is_train=False)
        except (AssertionError, KeyError, ValueError) as error:
            raise EncoderError(
                f"open_clip {_open_clip_version()} cannot preprocess as the model asks: expected "
                f"an interpolation of {sorted(_INTERPOLATIONS)} and a resize mode of "
                f"{sorted(_MODES)}, got {spec.interpolation!r} and {spec.resize_mode!r}. "
                "Correct its open_clip_config.json, or update open_clip."
            ) from error

    warning = ""

    def prepare(self, images: Sequence[RgbImage]) -> torch.Tensor:
        """Return what the model takes: float32, ``(n, 3, height, width)``, normalised."""
        return torch.stack([self._transform(Image.fromarray(image)) for image in images])

    def example(self, device: torch.device) -> torch.Tensor:
        """Return one prepared image of zeros on a device."""
        return torch.zeros((1, 3, self._spec.height, self._spec.width), device=device)

    def normalize(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the input: `prepare` has normalised it."""
        return prepared


def resized_size(spec: PreprocessSpec, height: int, width: int) -> tuple[int, int]:
    """Return ``(height, width)`` after the resize and before the crop, rounded as open_clip does.

    open_clip raises where a side of a very long image would round to zero pixels; here it
    stays one pixel wide.
    """
    if spec.resize_mode == "squash":
        return spec.height, spec.width
    if spec.resize_mode == "shortest" and spec.height == spec.width:
        side = spec.height
        if height <= width:
            return side, int(side * width / height)
        return int(side * height / width), side
    ratios = (height / spec.height, width / spec.width)
    ratio = max(ratios) if spec.resize_mode == "longest" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def grows_without_bound(spec: PreprocessSpec, height: int, width: int) -> bool:
    """Return whether an image would be resized to many times what the model sees of it.

    A line of 1 x 10000 pixels would grow to 224 x 2240000 before it is cropped.
    """
    new_height, new_width = resized_size(spec, height, width)
    return new_height * new_width > _MAX_GROWTH * spec.height * spec.width


def resize_middle(spec: PreprocessSpec, image: RgbImage) -> torch.Tensor:
    """Resize only what the crop keeps of an image that would grow without bound.

    PIL resamples a part of an image at the scale of the whole; torch cannot.

    Returns:
        uint8, ``(3, height, width)``, on the CPU.
    """
    pil_filter = _PIL_FILTERS[spec.filter]
    height, width = resized_size(spec, *image.shape[:2])
    y, x = middle(height, spec.height), middle(width, spec.width)
    new_height, new_width = y.stop - y.start, x.stop - x.start
    scale_y, scale_x = image.shape[0] / height, image.shape[1] / width
    reach = math.ceil(_REACH * max(1.0, scale_y))
    first = max(0, math.floor(y.start * scale_y) - reach)
    last = math.ceil(y.stop * scale_y) + reach
    rows = Image.fromarray(image[first:last])
    # Horizontal, then vertical: see the module's docstring.
    columns = (x.start * scale_x, 0, x.stop * scale_x, rows.height)
    narrow = rows.resize((new_width, rows.height), pil_filter, box=columns)
    lines = (0, y.start * scale_y - first, new_width, y.stop * scale_y - first)
    part = narrow.resize((new_width, new_height), pil_filter, box=lines)
    return torch.from_numpy(np.array(part)).permute(2, 0, 1)


def middle(size: int, wanted: int) -> slice:
    """Return the middle of a side: all of it where it is not longer than what is wanted."""
    start = round(max(0, size - wanted) / 2.0)
    return slice(start, start + min(size, wanted))


def paste(source: torch.Tensor, target: torch.Tensor, padding: int) -> None:
    """Copy to the middle of the target, both ``(..., 3, height, width)``, and pad around it."""
    if source.shape != target.shape:
        target.fill_(padding)
    top, left = ((target.shape[axis] - source.shape[axis]) // 2 for axis in (-2, -1))
    y, x = slice(top, top + source.shape[-2]), slice(left, left + source.shape[-1])
    if source.device.type != "cpu" or source.dim() > 3:
        target[..., y, x] = source
        return
    # torch shares so small a copy among threads that wait for each other where a core is busy,
    # and takes channels out of pixels one by one.
    planes = cv2.split(source.permute(1, 2, 0).numpy())
    for channel, plane in zip(target.numpy(), planes, strict=True):
        channel[y, x] = plane


class _Borrowed:
    """Memory of an array, offered as writable.

    torch warns about every array that is read-only, and the pixels of a message always are.
    Nothing here writes to them.
    """

    def __init__(self, array: RgbImage) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._owner = array  # keeps the memory alive


def _as_tensor(image: RgbImage) -> torch.Tensor:
    """Return a tensor on the image's own memory where torch can, uint8 ``(h, w, 3)``."""
    if any(stride < 0 for stride in image.strides):
        image = np.ascontiguousarray(image)  # torch has no negative strides (a bgr8 view has)
    elif not image.flags.writeable:
        image = np.asarray(_Borrowed(image))
    return torch.from_numpy(image)


def _resize_until(
    pixels: torch.Tensor, size: tuple[int, int], ends: tuple[int, int], mode: InterpolationMode
) -> torch.Tensor:
    """Return the beginning of a resized image: from 1280 pixels, 311 columns of 398.

    torch's public `interpolate` takes either a size or scales, and its own function both.

    Args:
        pixels: uint8, ``(3, h, w)``, on the CPU.
        size: Height and width of the whole result.
        ends: How many rows and columns of it are wanted.
        mode: Bilinear or bicubic.
    """
    sides = pixels.shape[1:]
    scales = [whole / side for whole, side in zip(size, sides, strict=True)]
    # A side that does not change is taken for one that is copied, whatever the scale says.
    wanted = [
        whole if end == side else end for whole, end, side in zip(size, ends, sides, strict=True)
    ]
    resized: torch.Tensor = _RESAMPLE[mode](_as_batch(pixels), wanted, False, *scales)
    return resized[0]


def _as_batch(pixels: torch.Tensor) -> torch.Tensor:
    """Return one image, ``(3, height, width)``, as a batch that says which way its memory goes.

    With the stride that torch itself gives to a batch of one, the result is taken apart into
    channels, which costs more than ours (pytorch/pytorch#68430).
    """
    return pixels.as_strided((1, *pixels.shape), (pixels.numel(), *pixels.stride()))


def _triple(value: Any) -> tuple[float, float, float]:
    values = (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _open_clip_version() -> str:
    import open_clip

    return str(open_clip.__version__)
