"""Small JPEG pictures of scenes, for people."""

from __future__ import annotations

import io
from typing import cast

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vla_retrieval.types import RgbImage

_JPEG_QUALITY = 80

NO_PICTURE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises where bytes are no picture."""


def make_thumbnail(image: RgbImage, longer_side_px: int) -> bytes:
    """Return the image as JPEG bytes, shrunk (never grown) to the longer side, in pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, longer_side_px / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = _shrunk(image, size) if scale < 1.0 else image
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)
    return jpeg.tobytes()


def _shrunk(image: RgbImage, size: tuple[int, int]) -> RgbImage:
    """Return the means of areas, for a width and a height that are not larger.

    OpenCV's take half the time of Pillow's Lanczos, and whole halves are quicker still: to 120 x 90
    through them takes 0.4 of the time from 640 x 480, and 0.2 from 1280 x 720. The last step
    shrinks to half or less, else it would blur.
    """
    height, width = image.shape[:2]
    while width % 2 == height % 2 == 0 and width >= 4 * size[0] and height >= 4 * size[1]:
        width, height = width // 2, height // 2
        image = cast("RgbImage", cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return cast("RgbImage", cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def read_thumbnail(jpeg: bytes) -> RgbImage:
    """Return JPEG bytes as an RGB array.

    Raises:
        OSError: Or another of ``NO_PICTURE``, if they do not decode.
    """
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB"))


def why_no_picture(jpeg: bytes) -> str:
    """Return why bytes do not decode as a JPEG picture, or '' where they do."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            picture.load()
    except UnidentifiedImageError:  # its own text is an address in RAM
        return f"{len(jpeg)} bytes that begin with {jpeg[:4]!r}"
    except NO_PICTURE as error:
        return str(error) or type(error).__name__
    return ""
