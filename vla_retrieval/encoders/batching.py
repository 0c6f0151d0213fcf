"""Batches that a device has the memory for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch

from vla_retrieval.errors import EncoderError

_log = logging.getLogger(__name__)

Tower = Callable[[torch.Tensor], torch.Tensor]

_SCARCE_BYTES = 64 << 20
"""Free memory of a GPU below which any failure is taken for a want of it."""


class BatchLimit:
    """Runs batches, in smaller ones where the GPU's memory does not do.

    What was too large once is not tried again: the limit stays where it came to. Any thread may
    call it.

    Args:
        model: Name of the model, for messages.
        device: Where it computes, for messages.
        most: Most inputs of one pass, from 1 on.
    """

    def __init__(self, model: str, device: str, most: int) -> None:
        self._model = model
        self._device = device
        self._wanted = most
        self._most = most
        self._lock = threading.Lock()  # protects _most: it only ever falls

    @property
    def most(self) -> int:
        """Most inputs of one pass that are tried now."""
        return self._most

    @property
    def warning(self) -> str:
        """What a person should know, with the next step; mostly nothing."""
        if self._most == self._wanted:
            return ""
        return (
            f"{self._device} ran out of memory: {self._model} takes at most {self._most} inputs at "
            f"once there now, {self._wanted} were wanted. Stop what else uses it, or take a "
            "smaller model or precision; clean up and configure the node to try larger ones again."
        )

    def run(self, tower: Tower, batch: torch.Tensor) -> torch.Tensor:
        """Return what a tower makes of a batch, all its rows in their order.

        Args:
            tower: Gives one row for each of the batch.
            batch: Of at least one row.

        Raises:
            EncoderError: If the memory does not do for one row.
        """
        done: list[torch.Tensor] = []
        while (start := sum(map(len, done))) < len(batch):
            part = batch[start : start + self._most]
            embedded = self._try(tower, part)
            if embedded is None:
                self._lower(len(part))
            else:
                done.append(embedded)
        return done[0] if len(done) == 1 else torch.cat(done)

    def _lower(self, failed: int) -> None:
        # Another thread may have lowered it since; then that is tried first.
        with self._lock:
            if failed == 1:
                raise EncoderError(
                    f"{self._device} ran out of memory: {self._model} needs more than is free for "
                    "a batch of 1. Stop what else uses it, choose a smaller model, a smaller "
                    "precision or another device."
                )
            self._most = min(self._most, failed // 2)
            _log.warning("%s", self.warning)

    def _try(self, tower: Tower, part: torch.Tensor) -> torch.Tensor | None:
        """Return what the tower makes of it, or None where the memory does not do."""
        try:
            return tower(part)
        except RuntimeError as error:
            if not self._is_shortage(error):
                raise
        # Outside of the except block: the exception holds the frames that failed, and they their
        # tensors (PyTorch's FAQ, "My out of memory exception handler can't allocate memory").
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        return None

    def _is_shortage(self, error: RuntimeError) -> bool:
        """Return whether there was too little memory.

        On a GPU that is full, libraries cannot load their kernels either, and say other things:
        cuBLAS, that its execution failed.
        """
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return True
        is_gpu = self._device.startswith("cuda")
        if not (is_gpu and torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        return free < _SCARCE_BYTES
