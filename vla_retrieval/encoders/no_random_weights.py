"""Builds a model without drawing the random weights that a checkpoint replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_DRAWS = frozenset(
    {
        torch.ops.aten.normal_.default,
        torch.ops.aten.uniform_.default,
        torch.ops.aten.erfinv_.default,  # timm's truncated normal: a uniform draw, then this
    }
)


class NoRandomWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, filling a tensor in place with random numbers does nothing.

    The tensor keeps what its memory held, so each one has to be overwritten afterwards:
    `load_weights` refuses a checkpoint that leaves one out. Everything else that a constructor
    computes (masks, running means, scales) is computed. It counts for the calling thread alone.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func in _DRAWS else func(*args, **(kwargs or {}))
