"""Whether a device has no memory left."""

from __future__ import annotations

import torch

_SCARCE_BYTES = 64 << 20
"""Free memory of a GPU below which libraries fail in other words."""


def is_shortage(error: RuntimeError, device: torch.device) -> bool:
    """Return whether an error comes of too little memory.

    On a GPU that is full, libraries cannot load their kernels either, and say other things:
    cuBLAS, that its execution failed.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    if device.type != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return free < _SCARCE_BYTES
