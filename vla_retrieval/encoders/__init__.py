"""Encoders: from images and instructions to unit vectors of one space.

`load_encoder` is the door. torch is imported when a model is loaded and not before, so this
package, and the test double in it, work where torch is not installed.
"""

from __future__ import annotations

import gc
import sys

from vla_retrieval.encoders.double import DoubleEncoder
from vla_retrieval.encoders.protocol import Encoder
from vla_retrieval.encoders.settings import DEMO_MODEL, DOUBLE_MODEL, EncoderSettings
from vla_retrieval.errors import EncoderError

__all__ = [
    "DEMO_MODEL",
    "DOUBLE_MODEL",
    "DoubleEncoder",
    "Encoder",
    "EncoderSettings",
    "free_device_memory",
    "load_encoder",
]


def load_encoder(settings: EncoderSettings | None = None) -> Encoder:
    """Load the model that the settings name.

    Args:
        settings: Without them, the demonstration model on the best device.

    Returns:
        An encoder that is ready; `Encoder.warm_up` makes its first call as fast as the others.

    Raises:
        EncoderError: If the model, its weights' tag, the device or torch is not there.
        CheckpointError: If the weights file is missing, damaged, of another model, or of a
            kind that could execute code.
    """
    settings = settings or EncoderSettings()
    if settings.model == DOUBLE_MODEL:
        return DoubleEncoder()
    try:
        import open_clip  # noqa: F401  (what is missing is told apart from errors within)
        import torch  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        # torch and torchvision of different releases raise RuntimeError at import.
        raise EncoderError(
            f"model {settings.model!r} needs torch, torchvision and open_clip, and importing "
            f"them failed: {error}. Install releases that belong together: pip install torch "
            "torchvision open_clip_torch"
        ) from error
    from vla_retrieval.encoders.open_clip_encoder import load_open_clip_encoder

    return load_open_clip_encoder(settings)


def free_device_memory() -> None:
    """Give back what encoders that nobody refers to any more took of a GPU's memory.

    torch keeps freed blocks for its next tensors, where other processes cannot use them. What it
    keeps of the CPU's memory for uploads stays.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
