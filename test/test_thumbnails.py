"""Small pictures: their size, and that they show the means of what they shrink."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vla_retrieval.thumbnails import make_thumbnail, read_thumbnail, why_no_picture
from vla_retrieval.types import RgbImage

_STEPS_OFF = 8.0  # of 255 in the mean, nearly all by JPEG; the nearest pixel would be 60 off


def noise(height: int, width: int) -> RgbImage:
    """Return a grey picture whose pixels say nothing about their neighbours."""
    grey = np.random.default_rng(1).integers(0, 256, (height, width, 1), np.uint8)
    return np.repeat(grey, 3, axis=2)


def shares(whole: int, parts: int) -> NDArray[np.float64]:
    """Return how much of each part lies in each pixel of a side, shape ``(parts, whole)``."""
    ends = np.linspace(0, whole, parts + 1)
    pixels = np.arange(whole)
    overlap = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return overlap.clip(min=0) * parts / whole


@pytest.mark.parametrize("size", [(480, 640), (96, 128), (720, 1280), (481, 641), (300, 90)])
def test_a_pixel_is_the_mean_of_the_area_that_it_stands_for(size: tuple[int, int]) -> None:
    """Whether it is shrunk by halves, at once, or both."""
    image = noise(*size)
    small = read_thumbnail(make_thumbnail(image, 60)).astype(float)
    down, across = (shares(*sides) for sides in zip(size, small.shape[:2], strict=True))
    means = np.einsum("yh,hwc,xw->yxc", down, image, across, optimize=True)
    assert np.abs(small - means).mean() < _STEPS_OFF


@given(
    height=st.integers(1, 400), width=st.integers(1, 400), longer_side_px=st.integers(1, 256)
)  # fmt: skip
def test_the_longer_side_is_as_asked_and_nothing_grows(
    height: int, width: int, longer_side_px: int
) -> None:
    """The other side keeps the ratio as far as whole pixels can."""
    image = np.zeros((height, width, 3), np.uint8)
    small = read_thumbnail(make_thumbnail(image, longer_side_px))
    scale = min(1.0, longer_side_px / max(height, width))
    assert max(small.shape[:2]) == min(longer_side_px, max(height, width))
    for side, was in zip(small.shape[:2], (height, width), strict=True):
        assert abs(side - was * scale) <= 1


@pytest.mark.parametrize("colour", [(200, 40, 40), (40, 200, 40), (40, 40, 200)])
def test_colours_stay_what_they_are(colour: tuple[int, int, int]) -> None:
    small = read_thumbnail(make_thumbnail(np.full((480, 640, 3), colour, np.uint8), 120))
    assert np.abs(small - np.array(colour)).max() <= 3


def test_a_picture_that_cannot_be_written_to_is_shrunk_too() -> None:
    """The pixels of a message never can."""
    image = np.frombuffer(noise(480, 640).tobytes(), np.uint8).reshape(480, 640, 3)
    assert make_thumbnail(image, 120) == make_thumbnail(image.copy(), 120)


def test_a_picture_of_another_format_is_no_jpeg() -> None:
    """Who shows thumbnails is told that they are JPEGs."""
    _, png = cv2.imencode(".png", noise(24, 32))
    assert "PNG" in why_no_picture(png.tobytes())
    assert why_no_picture(make_thumbnail(noise(24, 32), 32)) == ""
