"""Thumbnails that are small enough for a page."""

from __future__ import annotations

import base64
import binascii
import io
from functools import lru_cache

from PIL import Image

from vla_retrieval.evaluation.results import Example

# Longer side in pixels and JPEG quality, best first. At 72 pixels a cup is still a cup.
_STEPS = ((176, 72), (144, 65), (112, 55), (72, 45))


def pictures_in(example: Example) -> int:
    """Return how many thumbnails an example has."""
    return bool(example.thumbnail) + sum(bool(shown.thumbnail) for shown in example.matches)


@lru_cache(maxsize=4096)
def data_uri(thumbnail: str, most_chars: int) -> str:
    """Return a thumbnail as an address that holds the picture itself.

    It is decoded and encoded anew, so that nothing but a JPEG gets into the page.

    Args:
        thumbnail: A picture in a format that Pillow reads, base64.
        most_chars: Of the address.

    Returns:
        ``data:image/jpeg;base64,...``, or '' if there is no picture in it or none that small.
    """
    try:
        content = base64.b64decode(thumbnail, validate=True)
        with Image.open(io.BytesIO(content)) as opened:
            picture = opened.convert("RGB")
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    for side, quality in _STEPS:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        if len(uri) <= most_chars:
            return uri
    return ""
