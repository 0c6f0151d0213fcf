"""Chance changes to training pictures: what cameras, lamps and JPEG do to the same scene."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]
FloatImages = npt.NDArray[np.float32]

MEAN: Final = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD: Final = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
"""OpenAI CLIP's normalisation, open_clip's default, in RGB order."""


def augmented(
    rng: np.random.Generator, picture: ImageArray, size: int, mirror: bool
) -> FloatImages:
    """One changed view of a picture.

    Args:
        rng: The source of chance.
        picture: RGB uint8, square.
        size: Side of the result in pixels.
        mirror: Whether to exchange left and right; the caller mirrors the truth too.

    Returns:
        Normalised float32 of shape ``(size, size, 3)``.
    """
    view = _moved(rng, picture[:, ::-1] if mirror else picture, size)
    values = _relit(rng, view)
    if rng.random() < 0.3:
        values = cv2.GaussianBlur(values, (3, 3), float(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.5:
        values = values + rng.standard_normal(values.shape, dtype=np.float32) * float(
            rng.uniform(1.0, 7.0)
        )
    if rng.random() < 0.3:
        values = _compressed(values, int(rng.integers(40, 96)))
    changed: FloatImages = ((values / 255.0 - MEAN) / STD).astype(np.float32)
    return changed


def _moved(rng: np.random.Generator, picture: npt.NDArray[np.uint8], size: int) -> ImageArray:
    scale = size / picture.shape[0] * rng.uniform(0.95, 1.07)
    angle = rng.uniform(-3.0, 3.0)
    centre = picture.shape[0] / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), angle, scale)
    matrix[:, 2] += size / 2 - centre + rng.uniform(-4.0, 4.0, 2)
    moved: ImageArray = np.asarray(
        cv2.warpAffine(
            np.ascontiguousarray(picture), matrix, (size, size),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )
    )  # fmt: skip
    return moved


def _relit(rng: np.random.Generator, view: ImageArray) -> FloatImages:
    gain = rng.uniform(0.84, 1.16) * rng.uniform(0.96, 1.04, 3)
    offset = rng.uniform(-10.0, 10.0)
    lit: FloatImages = np.clip(view * gain.astype(np.float32) + np.float32(offset), 0.0, 255.0)
    return lit


def _compressed(values: FloatImages, quality: int) -> FloatImages:
    clipped = np.clip(values, 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", clipped, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: FloatImages = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)).astype(np.float32)
    return decoded
