"""A device that is not there: tensors that say they are on it, and hold their numbers on the CPU.

What torch refuses on a real device is refused here: an operation on tensors of two devices, and
NumPy's view of one that is not on the CPU. So training shows whether each tensor is moved, and
computes what it computes on the CPU. The device is ``meta``: autograd asks the driver of any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CPU = torch.device("cpu")
DEVICE = "meta"


class Elsewhere(Tensor):
    """A tensor on a device that is not there.

    Attributes:
        held: Its numbers, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        """Wrap a tensor of the CPU."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), dtype=held.dtype, device=device
        )  # type: ignore[attr-defined]
        made.held = held
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU, and put the result on the device of the arguments."""
        return dispatched(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Makes what is asked for on another device than the CPU there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU, and put the result where it was asked for."""
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Call an operation on what is held.

    Raises:
        RuntimeError: If its tensors are on two devices.
    """
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    device = _device_of(func, leaves, kwargs)
    inner_args, inner_kwargs = tree_map(_held, (args, kwargs))
    if inner_kwargs.get("device") is not None:
        inner_kwargs["device"] = CPU
    found = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable and args:
        return args[0]
    if device == CPU:
        return found
    return tree_map(lambda t: Elsewhere(t, device) if isinstance(t, Tensor) else t, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _device_of(func: Any, tensors: list[Tensor], kwargs: dict[str, Any]) -> torch.device:
    """Return where the result is; refuse what torch refuses."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    # A single number of the CPU goes with tensors of any device, and so do indices of the CPU.
    devices = {t.device for t in tensors if t.dim()}
    if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        devices = {tensors[0].device} | (devices - {CPU})
    if len(devices) > 1:
        raise RuntimeError(f"{func}: tensors of {sorted(map(str, devices))}")
    return next(iter(devices or {t.device for t in tensors if t.device != CPU} or {CPU}))
