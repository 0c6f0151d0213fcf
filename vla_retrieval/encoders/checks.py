"""What an encoder accepts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import RgbImage, check_instruction

_EXPECTED_IMAGE = "a uint8 array of shape (height, width, 3), at least one pixel"


def check_images(images: Sequence[RgbImage]) -> None:
    """Raise InvalidInputError unless each image is uint8 ``(height, width, 3)`` with pixels.

    Raises:
        InvalidInputError: For the first image that is not; the field is ``images[i]``.
    """
    for i, image in enumerate(images):
        if not isinstance(image, np.ndarray):
            raise InvalidInputError(f"images[{i}]", _EXPECTED_IMAGE, type(image).__name__)
        shape_is_right = image.ndim == 3 and image.shape[2] == 3 and image.size > 0
        if image.dtype != np.uint8 or not shape_is_right:
            raise InvalidInputError(
                f"images[{i}]", _EXPECTED_IMAGE, f"{image.dtype} of shape {image.shape}"
            )


def check_texts(texts: Sequence[str]) -> None:
    """Raise InvalidInputError unless each text is an instruction.

    Raises:
        InvalidInputError: For the first that is not.
    """
    if isinstance(texts, str):
        raise InvalidInputError("texts", "a list of instructions", "one string", "Wrap it in [].")
    for text in texts:
        if not isinstance(text, str):
            raise InvalidInputError("instruction", "text", type(text).__name__)
        check_instruction(text)
