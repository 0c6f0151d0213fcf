"""Which preprocessor makes a model's input."""

from __future__ import annotations

import torch

from vla_retrieval.encoders.gpu_preprocessing import GpuPreprocessor
from vla_retrieval.encoders.preprocessing import (
    PilPreprocessor,
    Preprocessor,
    PreprocessSpec,
    UInt8Preprocessor,
)


def make_preprocessor(spec: PreprocessSpec, device: torch.device | None = None) -> Preprocessor:
    """Return the fast preprocessor where it can do what the spec says, else open_clip's.

    Args:
        spec: What is to be done.
        device: Where the model runs; the CPU by default.

    Raises:
        EncoderError: If neither can.
    """
    if not spec.is_native:
        return PilPreprocessor(spec)
    if device is None or device.type == "cpu":
        return UInt8Preprocessor(spec)
    return GpuPreprocessor(spec, device)
