"""The towers as programs that do not need torch's eager mode, by ``torch.export``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vla_retrieval.encoders.towers import ImageTower, TextTower

_MOST = 4096
"""Rows of a batch; `EncoderSettings.batch_size` goes as far."""

PIXELS, TOKENS = "pixels", "tokens"
"""Names of the towers' inputs."""

IMAGE, TEXT = "image", "text"
"""Names of the towers."""


@dataclass(frozen=True)
class Program:
    """One tower, and how to export it.

    Attributes:
        module: In fp32, on the CPU, in eval mode.
        example: Its input, two rows.
        dynamic: torch.export's description of the sizes that may change, by axis.
        input_name: ``pixels`` or ``tokens``.
    """

    module: torch.nn.Module
    example: torch.Tensor
    dynamic: dict[int, Any]
    input_name: str

    def export(self) -> Any:
        """Return torch's ExportedProgram."""
        with quiet_export(), torch.no_grad():
            return torch.export.export(
                self.module, (self.example,), dynamic_shapes={self.input_name: self.dynamic}
            )


def programs(model: Any, image_size: tuple[int, int], text: TextTower) -> dict[str, Program]:
    """Return both towers by name.

    Args:
        model: open_clip's, in fp32 on the CPU.
        image_size: Height and width that it takes, in pixels.
        text: Its text tower.
    """
    # Two rows: torch.export takes a size of 1 for one that never changes.
    pixels = torch.zeros(2, 3, *image_size)
    tokens = torch.zeros(2, text.cut.lengths[0], dtype=torch.int64)
    tokens[:, 1] = 1  # an end of text for towers that look for the highest number
    batch = torch.export.Dim("batch", min=1, max=_MOST)
    lengths: dict[int, Any] = {0: batch}
    if text.cut.pool_type:
        lengths[1] = torch.export.Dim("length", min=2, max=text.cut.context_length)
    return {
        IMAGE: Program(ImageTower(model), pixels, {0: batch}, PIXELS),
        TEXT: Program(text, tokens, lengths, TOKENS),
    }


_CHATTY = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")


@contextmanager
def quiet_export() -> Iterator[None]:
    """Drop what the exporters say about their own steps, which no user can act on."""

    def is_right(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in Path(record.pathname).parts  # it logs through the root

    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    root.addFilter(is_right)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(is_right)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
