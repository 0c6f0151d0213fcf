"""What engines have in common that run towers compiled ahead of time, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from vla_retrieval.encoders.artefacts import ArtefactCache, Key
from vla_retrieval.encoders.exporting import IMAGE, TEXT, Program
from vla_retrieval.encoders.preprocessing import Preprocessor
from vla_retrieval.encoders.towers import TextCut
from vla_retrieval.right_of_way import RightOfWay

Tower = Callable[[torch.Tensor], torch.Tensor]
"""Runs one tower on a contiguous batch; safe under concurrent calls."""


@dataclass(frozen=True)
class Order:
    """What is to be compiled, and how.

    Attributes:
        programs: Both towers by name.
        cut: Where token rows may be cut.
        preprocessor: Normalises the pixels.
        precision: One that the engine computes in.
        threads: CPU threads; 0 leaves the engine's own choice.
        cache: Where compiled towers are kept.
        key: What they depend on, besides the engine's library and options.
    """

    programs: Mapping[str, Program]
    cut: TextCut
    preprocessor: Preprocessor
    precision: str
    threads: int
    cache: ArtefactCache
    key: Key


class CompiledEngine:
    """Two compiled towers as an engine, for batches of any size.

    Args:
        name: ``openvino`` or ``onnxruntime``.
        towers: By name.
        order: What they were compiled from.
        right_of_way: What the image tower gives way by, if it does.
    """

    def __init__(
        self,
        name: str,
        towers: Mapping[str, Tower],
        order: Order,
        right_of_way: RightOfWay | None = None,
    ) -> None:
        self._name = name
        self._right_of_way = right_of_way or RightOfWay()
        self._image, self._text = towers[IMAGE], towers[TEXT]
        # Not the order itself: its programs would keep the fp32 model in memory.
        self._cut, self._preprocessor = order.cut, order.preprocessor
        self._precision = order.precision

    @property
    def name(self) -> str:
        """``"openvino"`` or ``"onnxruntime"``."""
        return self._name

    @property
    def device(self) -> str:
        """Always ``"cpu"``."""
        return "cpu"

    @property
    def precision(self) -> str:
        """``"fp32"``, ``"bf16"`` or ``"int8"``."""
        return self._precision

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Lengths of token rows that it computes with, ascending."""
        return self._cut.lengths

    def embed_pixels(self, prepared: torch.Tensor) -> torch.Tensor:
        """Embed what the preprocessor prepared, shape ``(n, 3, height, width)``."""
        return self._image(self._preprocessor.normalize(prepared).contiguous())

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids, int64, shape ``(n, context_length)``."""
        with self._right_of_way.going_first():
            return self._text(self._cut.cut(tokens).contiguous())

    def give_back(self) -> bool:
        """Return False: it keeps nothing that it could do without."""
        return False
