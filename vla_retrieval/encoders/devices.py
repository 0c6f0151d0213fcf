"""From ``auto`` to a device, never to the CPU in silence."""

from __future__ import annotations

import logging
import os

import torch

from vla_retrieval.errors import EncoderError

_log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""torch's name for each precision."""


def choose_device(wanted: str) -> torch.device:
    """Return the device to compute on.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` or ``cuda:<index>``.

    Returns:
        The CPU, or a CUDA device with its index. ``auto`` on a machine without CUDA is the
        CPU and logs a warning with the reason.

    Raises:
        EncoderError: If CUDA was asked for and is not there, or has fewer devices.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda:0" if wanted == "auto" else wanted)
        index, count = device.index or 0, torch.cuda.device_count()
        if index >= count:
            raise EncoderError(
                f"device: expected cuda:0 to cuda:{count - 1}, got {wanted!r}, and torch sees "
                f"{count} CUDA device(s). Choose another index, or set CUDA_VISIBLE_DEVICES."
            )
        return torch.device("cuda", index)
    reason = why_no_cuda()
    if wanted == "auto":
        _log.warning(
            "ENCODING ON THE CPU, which is many times slower than a GPU: %s. "
            "Set device to cpu if that is meant.", reason,
        )  # fmt: skip
        return torch.device("cpu")
    raise EncoderError(
        f"device: expected a CUDA device for {wanted!r}, got none: {reason}. "
        "Mend that, or set device to auto or cpu."
    )


def set_threads(threads: int) -> None:
    """Set how many threads torch computes with, in this whole process; 0 changes nothing."""
    if threads:
        torch.set_num_threads(threads)


def why_no_cuda() -> str:
    """Return why torch has no CUDA device, as a clause without a full stop."""
    version = torch.__version__
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"torch {version} is a build without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every device"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # raises with the reason
    except (RuntimeError, AssertionError) as error:
        text = str(error).strip().split(". ")[0].splitlines()
        return f"torch {version} says: {text[0] if text else type(error).__name__}"
    return f"torch {version} sees no CUDA device"
