"""Small JPEG pictures of scenes, for people."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from vla_retrieval.types import RgbImage

_JPEG_QUALITY = 80


def make_thumbnail(image: RgbImage, longer_side_px: int) -> bytes:
    """Return the image as JPEG bytes, shrunk (never grown) to the longer side."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((longer_side_px, longer_side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def read_thumbnail(jpeg: bytes) -> RgbImage:
    """Return JPEG bytes as an RGB array."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB"))


def why_no_picture(jpeg: bytes) -> str:
    """Return why bytes do not decode as a JPEG picture, or '' where they do."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            picture.load()
    except UnidentifiedImageError:  # its own text is an address in RAM
        return f"{len(jpeg)} bytes that begin with {jpeg[:4]!r}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return ""
