"""The two towers of a model, run by plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from vla_retrieval.encoders.cuda_graphs import RecordedTower, Tower
from vla_retrieval.encoders.devices import DTYPES
from vla_retrieval.encoders.patches import use_products
from vla_retrieval.encoders.preprocessing import Preprocessor
from vla_retrieval.encoders.towers import TextTower


class Engine(Protocol):
    """Runs the two towers of a model.

    Both methods are safe under concurrent calls, and return raw embeddings: float32, shape
    ``(n, dim)``, on the CPU, of any length.
    """

    @property
    def name(self) -> str:
        """``"torch"``, ``"openvino"`` or ``"onnxruntime"``."""
        ...

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:<index>"``."""
        ...

    @property
    def precision(self) -> str:
        """``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``."""
        ...

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Lengths of token rows that it computes with, ascending; the last is the context."""
        ...

    def embed_pixels(self, prepared: torch.Tensor) -> torch.Tensor:
        """Embed what `Preprocessor.prepare` returned, shape ``(n, 3, height, width)``."""
        ...

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids, int64, shape ``(n, context_length)``, on the CPU."""
        ...

    def give_back(self) -> bool:
        """Give back the memory of what only makes it faster; return whether there was any."""
        ...


class TorchEngine:
    """Torch, the whole model in one precision: eager on a CPU, common shapes as graphs on a GPU.

    A forward pass in inference mode changes nothing in the model, and CUDA runs what several
    threads ask of one stream in order, so calls need no lock here.

    Args:
        model: open_clip's model with its weights, in fp32; it is moved and cast in place.
        preprocessor: Normalises the pixels on the device.
        device: Where the model goes.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        context_length: Tokens in a row.
        batch_size: Most images in a pass.
    """

    def __init__(
        self,
        model: Any,
        preprocessor: Preprocessor,
        device: torch.device,
        precision: str,
        context_length: int,
        batch_size: int = 1,
    ) -> None:
        # The whole model is cast: autocast to bf16 was slower than fp32 on the CPU.
        self._dtype = DTYPES[precision]
        if device.type == "cuda":
            use_products(model)
        self._model = model.eval().requires_grad_(False).to(device=device, dtype=self._dtype)
        self._text = TextTower(self._model, context_length)
        self._preprocessor = preprocessor
        self._device = device
        self._precision = precision
        # Nothing that refers to this object: with its last user the GPU's memory is free again.
        self._embed_pixels: Tower = partial(_run_images, self._model, preprocessor, self._dtype)
        self._embed_tokens: Tower = self._text
        self._give_back: Callable[[], bool] = lambda: False
        if device.type == "cuda":
            self._record(batch_size)

    @property
    def name(self) -> str:
        """Always ``"torch"``."""
        return "torch"

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:<index>"``."""
        return str(self._device)

    @property
    def precision(self) -> str:
        """``"fp32"``, ``"fp16"`` or ``"bf16"``."""
        return self._precision

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Lengths of token rows that it computes with, ascending."""
        return self._text.cut.lengths

    def embed_pixels(self, prepared: torch.Tensor) -> torch.Tensor:
        """Embed what the preprocessor prepared, shape ``(n, 3, height, width)``."""
        with torch.inference_mode():
            embedded = self._embed_pixels(prepared.to(self._device, non_blocking=True))
            return embedded.to("cpu", torch.float32)

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids, int64, shape ``(n, context_length)``."""
        with torch.inference_mode():
            embedded = self._embed_tokens(self._text.cut.cut(tokens).to(self._device))
            return embedded.to("cpu", torch.float32)

    def give_back(self) -> bool:
        """Give back the memory of a recorded batch; return whether there was one."""
        return self._give_back()

    def _record(self, batch_size: int) -> None:
        """Record one image, and one instruction of each length: what a robot asks for.

        And, once they are asked for, whole batches of images: a GPU takes less time for 32 than a
        CPU to launch their kernels.
        """
        with torch.inference_mode():
            image = self._preprocessor.example(self._device)
            tokens = [
                torch.ones((1, length), dtype=torch.int64, device=self._device)
                for length in self.text_lengths
            ]
            recorded = RecordedTower(self._embed_pixels, [image], batch_size=batch_size)
            self._embed_pixels, self._give_back = recorded, recorded.give_back
            self._embed_tokens = RecordedTower(self._text, tokens)


def _run_images(
    model: Any, preprocessor: Preprocessor, dtype: torch.dtype, prepared: torch.Tensor
) -> torch.Tensor:
    embedded: torch.Tensor = model.encode_image(preprocessor.normalize(prepared).to(dtype))
    return embedded
