"""Image messages to RGB arrays, where there is no ROS: for the node and for recorded bags alike.

A message is anything that has the fields of sensor_msgs/Image or sensor_msgs/CompressedImage.
Colours are converted by cv_bridge, which only the node knows, or by rosbags-image. Both have traps,
so what they are given is made harmless first, and the result is the same from either:

* rows with padding are unpadded (rosbags-image 0.10 ignores ``step``; cv_bridge 3.4 decodes
  padding that is not a whole number of pixels wrongly),
* 16-bit values are reduced to 8 bits here (one of the two rounds, the other cuts off),
* compressed images are decoded by OpenCV directly, whichever of the two is installed.

No picture is made that has more pixels than the caller allows: a PNG of a few kilobytes may claim
a billion. Only formats are decoded whose size is found without decoding.

Compared on all encodings below, with odd sizes and padding, cv_bridge 3.2.1 and 3.4.0 and
rosbags-image 0.10.4 gave the same bits this way.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import RgbImage

Converter: TypeAlias = Callable[[NDArray[np.uint8], str], RgbImage]
"""From pixels, shape ``(height, width, channels)``, and their encoding to RGB."""


class RawImage(Protocol):
    """The fields of sensor_msgs/Image; ``data`` is bytes, or uint8 of shape ``(size_bytes,)``."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImage(Protocol):
    """The fields of sensor_msgs/CompressedImage; ``data`` as in ``RawImage``."""

    format: str
    data: Any


class _Layout(NamedTuple):
    """Bytes of a channel, channels of a pixel, and the encoding once it has 8 bits."""

    depth: int
    channels: int
    as_8_bit: str


_BAYER = ("bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")
_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(1, 3, "rgb8"),
    "bgr8": _Layout(1, 3, "bgr8"),
    "rgba8": _Layout(1, 4, "rgba8"),
    "bgra8": _Layout(1, 4, "bgra8"),
    "mono8": _Layout(1, 1, "mono8"),
    "rgb16": _Layout(2, 3, "rgb8"),
    "bgr16": _Layout(2, 3, "bgr8"),
    "rgba16": _Layout(2, 4, "rgba8"),
    "bgra16": _Layout(2, 4, "bgra8"),
    "mono16": _Layout(2, 1, "mono8"),
    "uyvy": _Layout(1, 2, "yuv422"),
    "yuyv": _Layout(1, 2, "yuv422_yuy2"),
    "yuv422": _Layout(1, 2, "yuv422"),
    "yuv422_yuy2": _Layout(1, 2, "yuv422_yuy2"),
    **{f"{name}8": _Layout(1, 1, f"{name}8") for name in _BAYER},
    **{f"{name}16": _Layout(2, 1, f"{name}8") for name in _BAYER},
}
SUPPORTED_ENCODINGS = tuple(_LAYOUTS)

MAX_PIXELS = 64_000_000
"""Pixels that a picture may have where nobody says otherwise: 8K video has 33 million."""

_MAX_SIDE_PX = 1 << 14
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_ANY_FORMAT = "JPEG, PNG, WebP, TIFF or BMP image"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Cameras append padding or comments behind a JPEG's end; a file cut short has no end at all.
_JPEG_TAIL_BYTES = 4096


def raw_to_rgb(
    message: RawImage, convert: Converter, field: str = "image", max_pixels: int = MAX_PIXELS
) -> RgbImage:
    """Return the picture in a raw image message.

    Args:
        message: Like sensor_msgs/Image.
        convert: What turns encodings other than rgb8 into RGB.
        field: Name of the message for errors.
        max_pixels: Most pixels that are taken.

    Returns:
        Uint8, shape ``(height, width, 3)``, RGB. It may share the message's memory.

    Raises:
        InvalidInputError: If the message is empty, malformed, too large or of an unknown encoding.
    """
    layout = _check(message, field)
    _check_pixels(message.width, message.height, field, max_pixels)
    pixels = _unpad(message, layout)
    if layout.depth == 2:
        pixels = _to_8_bit(pixels, bool(message.is_bigendian))
    shape = (message.height, message.width, layout.channels)
    if layout.as_8_bit == "rgb8":
        return pixels.reshape(shape)
    return convert(pixels.reshape(shape), layout.as_8_bit)


def _check(message: RawImage, field: str) -> _Layout:
    """Return the layout of a raw message that holds together."""
    for name in ("height", "width"):
        side = getattr(message, name)
        if not 1 <= side <= _MAX_SIDE_PX:
            raise InvalidInputError(
                f"{field}.{name}", f"a number of pixels from 1 to {_MAX_SIDE_PX}", str(side)
            )
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise InvalidInputError(
            f"{field}.encoding", f"one of {', '.join(SUPPORTED_ENCODINGS)}",
            repr(message.encoding), "Convert the image in the camera driver or with image_proc.",
        )  # fmt: skip
    row = message.width * layout.channels * layout.depth
    if message.step < row:
        raise InvalidInputError(
            f"{field}.step", f"at least {row} bytes for {message.width} pixels of "
            f"{message.encoding}", str(message.step),
        )  # fmt: skip
    expected = message.step * message.height
    if len(message.data) < expected:
        raise InvalidInputError(
            f"{field}.data", f"at least step * height = {expected} bytes",
            f"{len(message.data)} bytes",
        )  # fmt: skip
    if layout.as_8_bit.startswith("yuv422") and message.width % 2:
        raise InvalidInputError(
            f"{field}.width", f"an even number for {message.encoding}", str(message.width)
        )
    return layout


def _check_pixels(width: int, height: int, field: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InvalidInputError(
            f"{field} (width * height)", f"at most {max_pixels} pixels",
            f"{width} * {height} = {width * height}",
            "Send a smaller picture; in the node, max_image_megapixels is the limit.",
        )  # fmt: skip


def check_raw(message: RawImage, field: str = "image", max_pixels: int = MAX_PIXELS) -> None:
    """Find what makes a raw message no picture, without making the picture.

    Args:
        message: As in ``raw_to_rgb``, like the other two.
        field: Name of the message for errors.
        max_pixels: Most pixels that are taken.

    Raises:
        InvalidInputError: Exactly where ``raw_to_rgb`` raises it.
    """
    _check(message, field)
    _check_pixels(message.width, message.height, field, max_pixels)


def _unpad(message: RawImage, layout: _Layout) -> NDArray[np.uint8]:
    """Return the rows without padding: uint8, shape ``(height, bytes of a row)``."""
    row = message.width * layout.channels * layout.depth
    data = np.frombuffer(cast("bytes", message.data), np.uint8)
    rows = data[: message.step * message.height].reshape(message.height, message.step)
    return np.ascontiguousarray(rows[:, :row])


def _to_8_bit(pixels: NDArray[np.uint8], is_bigendian: bool) -> NDArray[np.uint8]:
    """Return 16-bit values, given as bytes, scaled by 255 / 65535 and rounded."""
    values = pixels.view(">u2" if is_bigendian else "<u2").astype(np.uint32)
    return ((values + 128) // 257).astype(np.uint8)


def check_compressed(message: CompressedImage, field: str = "image") -> bytes:
    """Find what makes a compressed message no picture, as far as that shows without decoding.

    Returns:
        Its data.

    Raises:
        InvalidInputError: If it is empty, depth, or a JPEG that was cut off.
    """
    data = bytes(message.data)
    if not data:
        raise InvalidInputError(f"{field}.data", f"a {_ANY_FORMAT}", "0 bytes")
    if "compressedDepth" in message.format:
        raise InvalidInputError(f"{field}.format", "a colour image", repr(message.format))
    if data.startswith(_JPEG_START) and _JPEG_END not in data[-_JPEG_TAIL_BYTES:]:
        raise InvalidInputError(
            f"{field}.data", "a whole JPEG", f"{len(data)} bytes without an end: it was cut off"
        )
    return data


def compressed_to_rgb(
    message: CompressedImage, field: str = "image", max_pixels: int = MAX_PIXELS
) -> RgbImage:
    """Return the picture in a compressed image message: a JPEG, PNG, WebP, TIFF or BMP.

    Args:
        message: Like sensor_msgs/CompressedImage.
        field: Name of the message for errors.
        max_pixels: Most pixels that are decoded.

    Returns:
        Uint8, shape ``(height, width, 3)``, RGB.

    Raises:
        InvalidInputError: If the message is empty, depth, cut off, too large, or no such picture.
    """
    data = check_compressed(message, field)
    _check_pixels(*_size_of(data, field), field, max_pixels)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        picture, reason = None, str(error).strip()
    else:
        reason = f"{len(data)} bytes starting with {data[:4].hex(' ')}"
    if picture is None:
        raise InvalidInputError(f"{field}.data", f"a whole {_ANY_FORMAT}", reason)
    return cast("RgbImage", cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def _size_of(data: bytes, field: str) -> tuple[int, int]:
    """Return width and height as the header says, without decoding a pixel.

    Raises:
        InvalidInputError: If it is none of the formats, or its header makes no sense.
    """
    try:
        # Pillow only reads the header here, and has limits of its own to what that may claim.
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            return header.size
    except UnidentifiedImageError:
        got = f"{len(data)} bytes starting with {data[:4].hex(' ')}"
    except Exception as error:
        # Pillow's readers raise whatever a damaged header makes them meet.
        got = f"{len(data)} bytes: {error}"
    raise InvalidInputError(f"{field}.data", f"a {_ANY_FORMAT}", got)


def rosbags_converter() -> Converter:
    """Return a conversion through rosbags-image, which takes anything shaped like a message."""
    from rosbags.image import message_to_cvimage

    def convert(pixels: NDArray[np.uint8], encoding: str) -> RgbImage:
        height, width, _ = pixels.shape
        message: Any = SimpleNamespace(
            height=height, width=width, encoding=encoding, data=pixels,
            is_bigendian=sys.byteorder == "big",
        )  # fmt: skip
        return cast("RgbImage", message_to_cvimage(message, "rgb8"))

    return convert
