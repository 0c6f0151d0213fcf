"""Images a second in large batches on a GPU, beside the bare model and the card's own rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tools.benchmarks.measuring import interleave, spread
from tools.benchmarks.pipeline.bench import SIZES, Settings
from tools.benchmarks.pipeline.plain import plain_model
from vla_retrieval.encoders import load_encoder
from vla_retrieval.encoders.devices import DTYPES
from vla_retrieval.encoders.open_clip_encoder import OpenClipEncoder
from vla_retrieval.types import RgbImage

BATCH: Final = 256
_BATCHES: Final = 4
"""In one call for frames: a memory that is embedded anew has many."""

_MATRIX: Final = 8192
_FASTER: Final = 3.0
_SHARE: Final = 0.6


def measure(settings: Settings) -> dict[str, Any]:
    """Embed frames in batches of `BATCH`, and the same batch with the bare model.

    Returns:
        ``rates`` in images a second with spreads, ``bars``, and what part of the card's rate of
        multiplying matrices the model's operations are.
    """
    encoder = load_encoder(replace(settings.encoder, batch_size=BATCH))
    assert isinstance(encoder, OpenClipEncoder)
    device = torch.device(encoder.device)
    half = DTYPES[encoder.precision]
    model = plain_model(settings.encoder, device)
    low = plain_model(settings.encoder, device).to(half)
    size = encoder._preprocessor.example(device).shape[1:]
    pixels = torch.randn((BATCH, *size), device=device)
    ready = pixels.to(half)
    operations = _operations(model, pixels[:1])
    frames = _frames(BATCH * _BATCHES)
    prepared = encoder._preprocessor.prepare(frames[:BATCH])
    compiled = torch.compile(low.encode_image, dynamic=False)
    left, right = (
        torch.randn((_MATRIX, _MATRIX), device=device, dtype=half) for _ in range(2)
    )  # fmt: skip
    calls: dict[str, Callable[[int], Any]] = {
        "eager fp32, ready tensors": _synchronised(lambda: model.encode_image(pixels), device),
        "bare eager, ready tensors": _synchronised(lambda: low.encode_image(ready), device),
        "bare compiled, ready tensors": _synchronised(lambda: compiled(ready), device),
        "VGA frames": lambda n: encoder.encode_images(frames),
        "VGA frames, prepared only": _in_turn(frames, encoder._preprocessor.prepare, device),
        "prepared frames, embedded only": lambda n: encoder._engine.embed_pixels(prepared),
        "matrix product": _synchronised(lambda: left @ right, device),
    }
    laps = interleave(calls, settings.rounds, settings.limit_sec / 2)
    images = dict.fromkeys(calls, BATCH) | {"VGA frames": len(frames)}
    rates = {
        name: images[name] / seconds
        for name, seconds in laps.seconds.items()
        if name != "matrix product"
    }
    matrix_rate = 2.0 * _MATRIX**3 / laps.seconds["matrix product"]
    # Nobody would run the slower one of the two.
    bare = np.maximum(rates["bare eager, ready tensors"], rates["bare compiled, ready tensors"])
    ours = rates["VGA frames"]
    return {
        "device": torch.cuda.get_device_name(device),
        "precision": encoder.precision,
        "batch": BATCH,
        "rounds": laps.rounds,
        "rates": {name: spread(rate) for name, rate in rates.items()},
        "matrix rate [TFLOP/s]": spread(matrix_rate / 1e12),
        "share of the matrix rate": spread(ours * operations / matrix_rate),
        "bars": [
            _bar("VGA frames / eager fp32", ours / rates["eager fp32, ready tensors"], _FASTER),
            _bar("VGA frames / the faster bare model in that precision", ours / bare, _SHARE),
        ],
    }


def _frames(count: int) -> list[RgbImage]:
    made = np.random.default_rng(0)
    return [made.integers(0, 256, (*SIZES["VGA"], 3), dtype=np.uint8) for _ in range(count)]


def _operations(model: Any, pixels: torch.Tensor) -> int:
    """Return the multiplications and additions that a forward pass needs."""
    # The counter does not know what attention is fused into.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.encode_image(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def _synchronised(call: Callable[[], Any], device: torch.device) -> Callable[[int], Any]:
    def run(_: int) -> None:
        with torch.inference_mode():
            call()
        torch.cuda.synchronize(device)

    return run


def _in_turn(
    frames: Sequence[RgbImage], call: Callable[[Sequence[RgbImage]], Any], device: torch.device
) -> Callable[[int], Any]:
    """Return a call for another batch each time, whose pixels no processor's cache holds."""

    def run(number: int) -> None:
        first = number % _BATCHES * BATCH
        call(frames[first : first + BATCH])
        torch.cuda.synchronize(device)

    return run


def _bar(text: str, ratio: Any, bar: float) -> dict[str, Any]:
    found = spread(ratio)
    met = bool(found["median"] >= bar)
    return {"text": text, **found, "value": found["median"], "bar": bar, "below": False, "met": met}
