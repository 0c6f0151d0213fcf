"""Libraries that only training needs, imported when a head is trained."""

from __future__ import annotations

import importlib
from types import ModuleType

from vla_retrieval.errors import InvalidInputError, MissingLibraryError


def metric_learning(name: str) -> ModuleType:
    """Import a module of pytorch-metric-learning.

    Args:
        name: ``losses`` or ``miners``.

    Raises:
        MissingLibraryError: If it cannot be imported.
    """
    try:
        return importlib.import_module(f"pytorch_metric_learning.{name}")
    except ImportError as error:
        raise MissingLibraryError(
            f"training needs pytorch-metric-learning, and importing it failed: {error}. Install"
            " it: pip install -r requirements/training.txt, or run scripts/setup. A trained head"
            " is used without it."
        ) from error


def training_device(wanted: str) -> str:
    """Return the device of torch that a wish means.

    Raises:
        InvalidInputError: If it is none, or is not there.
    """
    import torch

    found = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    kind, _, number = found.partition(":")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    is_cuda = kind == "cuda" and (not number or number.isdecimal())
    if found != "cpu" and not is_cuda:
        raise InvalidInputError("device", "auto, cpu, cuda or cuda:N", repr(wanted))
    if is_cuda and int(number or 0) >= there:
        raise InvalidInputError(
            "device", f"one of {there} CUDA device(s)", repr(wanted), "Give cpu, or auto."
        )
    return found
