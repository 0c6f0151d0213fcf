"""Batches that a device has the memory for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch

from vla_retrieval.encoders.cuda_graphs import NOBODY_RECORDS, Tower
from vla_retrieval.encoders.shortage import is_shortage
from vla_retrieval.errors import EncoderError

_log = logging.getLogger(__name__)


class BatchLimit:
    """Runs batches, in smaller ones where the GPU's memory does not do.

    What was too large once is not tried again: the limit stays where it came to. Any thread may
    call it.

    Args:
        what: Whose memory it is, for messages: a model's name.
        device: Where it computes, as torch names it.
        most: Most inputs of one pass, from 1 on.
        advice: What takes less memory, for messages.
        give_back: Gives memory back that can be done without, and returns whether there was any;
            then the same batch is tried again.
    """

    def __init__(
        self,
        what: str,
        device: str,
        most: int,
        advice: str = "take a smaller model or precision",
        give_back: Callable[[], bool] = lambda: False,
    ) -> None:
        self._what = what
        self._device = torch.device(device)
        self._advice = advice
        self._give_back = give_back
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
            f"{self._device} ran out of memory: {self._what} takes at most {self._most} inputs at "
            f"once there now, {self._wanted} were wanted. Stop what else uses it, or "
            f"{self._advice}; clean up and configure the node to try larger ones again."
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
            embedded, said = self._try(tower, part)
            if embedded is not None:
                done.append(embedded)
            elif self._give_back():
                _empty_cache()
            else:
                self._lower(len(part), said)
        return done[0] if len(done) == 1 else torch.cat(done)

    def _lower(self, failed: int, said: str) -> None:
        # Another thread may have lowered it since; then that is tried first.
        with self._lock:
            if failed == 1:
                raise EncoderError(
                    f"{self._device} ran out of memory: {self._what} needs more than is free for "
                    f"a batch of 1 ({said}). Stop what else uses it, {self._advice}, or choose "
                    "another device."
                )
            self._most = min(self._most, failed // 2)
            _log.warning("%s (%s)", self.warning, said)

    def _try(self, tower: Tower, part: torch.Tensor) -> tuple[torch.Tensor | None, str]:
        """Return what the tower makes of it, or None and what was said of too little memory."""
        try:
            return tower(part), ""
        except RuntimeError as error:
            if not is_shortage(error, self._device):
                raise
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # Outside of the except block: the exception holds the frames that failed, and they their
        # tensors (PyTorch's FAQ, "My out of memory exception handler can't allocate memory").
        _empty_cache()
        return None, said


def _empty_cache() -> None:
    """Give what torch keeps and does not use to libraries, which ask the GPU itself."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with NOBODY_RECORDS:
            torch.cuda.empty_cache()
