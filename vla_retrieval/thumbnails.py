"""Small JPEG pictures of scenes, for people."""

from __future__ import annotations

import io

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
    # OpenCV's mean over areas takes half the time of Pillow's Lanczos, for pictures as small.
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1.0 else image
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)
    return jpeg.tobytes()


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
