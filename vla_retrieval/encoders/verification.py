"""Whether an engine computes what the model computes: a probe batch, a reference, a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vla_retrieval.encoders.preprocessing import Preprocessor
from vla_retrieval.encoders.tokenizing import InstructionTokenizer
from vla_retrieval.encoders.torch_engine import Engine
from vla_retrieval.errors import EncoderError
from vla_retrieval.types import RgbImage

THRESHOLDS = {
    "fp32": (0.9999, 0.9999),
    "fp16": (0.999, 0.999),
    "bf16": (0.9995, 0.999),
    "int8": (0.99, 0.99),
}
"""Least cosine to torch in fp32, of images and of texts, that an engine is accepted with.

Where they lie: engines in fp32 differ from torch by less than 1e-5; bf16 keeps 0.99995 of a
published ViT-B-32, int8 0.9998 of its images and 0.999 of its texts, but 0.977 of a SigLIP 2,
whose neighbours it would shuffle.
"""

_TEXTS = (
    "pick up the cup on the table",
    "拿起桌子上的杯子",
    "red",
    "put the small blue bowl next to the tall green bottle, then close the left drawer of the "
    "cabinet and bring me the screwdriver that lies behind the toolbox",
)
_SIZES = ((240, 320), (300, 200), (128, 128), (97, 161))


@dataclass(frozen=True)
class Probe:
    """What an engine is tried with.

    Attributes:
        prepared: As `Preprocessor.prepare` returns it, four images.
        tokens: int64, ``(4, context_length)``: texts from one word to more than most are.
    """

    prepared: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True)
class Outputs:
    """Raw embeddings of a probe: float32, ``(4, dim)`` each."""

    images: torch.Tensor
    texts: torch.Tensor


@dataclass(frozen=True)
class Agreement:
    """The worst cosine to the reference, of images and of texts."""

    image: float
    text: float

    def __str__(self) -> str:
        """Return both, for a log."""
        return f"worst cosine to torch fp32: image {self.image:.6f}, text {self.text:.6f}"


def make_probe(preprocessor: Preprocessor, tokenizer: InstructionTokenizer) -> Probe:
    """Return the same images and texts every time, as this model reads them."""
    images = [_draw(size, seed) for seed, size in enumerate(_SIZES)]
    return Probe(preprocessor.prepare(images), tokenizer.tokenize(_TEXTS))


def reference(
    model: Any, preprocessor: Preprocessor, probe: Probe, device: torch.device
) -> Outputs:
    """Return what open_clip's own model makes of a probe, in fp32 and with the whole context.

    Args:
        model: In fp32, with its weights; it is moved to the device.
        preprocessor: Normalises the pixels.
        probe: What is embedded.
        device: Where.
    """
    model = model.eval().requires_grad_(False).to(device)
    with torch.inference_mode():
        pixels = preprocessor.normalize(probe.prepared.to(device))
        images = model.encode_image(pixels).to("cpu", torch.float32)
        texts = model.encode_text(probe.tokens.to(device)).to("cpu", torch.float32)
    return Outputs(images, texts)


def run(engine: Engine, probe: Probe) -> Outputs:
    """Return what an engine makes of a probe, alone and in batches."""
    images = [engine.embed_pixels(part) for part in (probe.prepared[:1], probe.prepared[1:])]
    tokens = probe.tokens
    texts = [engine.embed_tokens(part) for part in (tokens[:1], tokens[1:2], tokens[2:])]
    return Outputs(torch.cat(images), torch.cat(texts))


def verify(engine: Engine, probe: Probe, expected: Outputs) -> Agreement:
    """Compare an engine with the reference.

    Returns:
        The worst cosines.

    Raises:
        EncoderError: If one of them is below `THRESHOLDS`, or not a number.
    """
    got = run(engine, probe)
    agreement = Agreement(
        _worst_cosine(got.images, expected.images), _worst_cosine(got.texts, expected.texts)
    )
    for what, cosine, least in zip(
        ("images", "instructions"),
        (agreement.image, agreement.text),
        THRESHOLDS[engine.precision],
        strict=True,
    ):
        if not cosine >= least:  # also where it is not a number
            raise EncoderError(
                f"engine {engine.name} in {engine.precision} does not compute what the model "
                f"computes: expected a cosine of at least {least} to torch in fp32 for {what}, "
                f"got {cosine:.6f}. Set precision to fp32, or engine to torch."
            )
    return agreement


def _worst_cosine(got: torch.Tensor, expected: torch.Tensor) -> float:
    if got.shape != expected.shape:
        return float("nan")
    cosines = torch.nn.functional.cosine_similarity(got.double(), expected.double())
    return float(cosines.min())


def _draw(size: tuple[int, int], seed: int) -> RgbImage:
    """Draw gradients, discs and a little noise: flat pictures hide what an engine does wrong."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    image = np.stack([x, y, 1.0 - x * y], axis=2) * rng.uniform(80, 200, 3)
    for _ in range(6):
        centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.25)
        image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)
