"""The two towers of a model, run by OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
import torch

from vla_retrieval.encoders.artefacts import ArtefactCache, Key
from vla_retrieval.encoders.exporting import IMAGE, PIXELS, TEXT, TOKENS, Program
from vla_retrieval.encoders.preprocessing import Preprocessor
from vla_retrieval.encoders.towers import TextCut

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def version() -> str:
    """Return OpenVINO's version."""
    return str(openvino.get_version())


def cpu_name() -> str:
    """Return the CPU's name and what OpenVINO can use of it."""
    core = openvino.Core()
    abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {' '.join(sorted(abilities))}"


def has_fast_bf16() -> bool:
    """Return whether the CPU multiplies in bf16 (AVX-512 BF16 or AMX); otherwise fp32 is faster."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """Both towers as OpenVINO's compiled models, for batches of any size.

    Args:
        towers: Compiled models by the tower's name.
        cut: Where token rows may be cut.
        preprocessor: Normalises the pixels.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(
        self,
        towers: Mapping[str, Any],
        cut: TextCut,
        preprocessor: Preprocessor,
        precision: str,
    ) -> None:
        self._image, self._text = _Tower(towers[IMAGE], PIXELS), _Tower(towers[TEXT], TOKENS)
        self._cut = cut
        self._preprocessor = preprocessor
        self._precision = precision

    @property
    def name(self) -> str:
        """Always ``"openvino"``."""
        return "openvino"

    @property
    def device(self) -> str:
        """Always ``"cpu"``."""
        return "cpu"

    @property
    def precision(self) -> str:
        """``"fp32"`` or ``"bf16"``."""
        return self._precision

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Lengths of token rows that it computes with, ascending."""
        return self._cut.lengths

    def embed_pixels(self, prepared: torch.Tensor) -> torch.Tensor:
        """Embed what the preprocessor prepared, shape ``(n, 3, height, width)``."""
        return self._image.run(self._preprocessor.normalize(prepared))

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids, int64, shape ``(n, context_length)``."""
        return self._text.run(self._cut.cut(tokens))


class _Tower:
    """One compiled model with one request: it uses all cores, so a second would only share them."""

    def __init__(self, compiled: Any, input_name: str) -> None:
        self._request = compiled.create_infer_request()
        self._input_name = input_name
        # Protects the request, which holds input and output of one call.
        self._lock = threading.Lock()

    def run(self, rows: torch.Tensor) -> torch.Tensor:
        with self._lock:
            found = self._request.infer(
                {self._input_name: rows.contiguous().numpy()}, share_inputs=True
            )
        return torch.from_numpy(found[0])


def load_openvino_engine(
    programs: Mapping[str, Program],
    cut: TextCut,
    preprocessor: Preprocessor,
    precision: str,
    threads: int,
    cache: ArtefactCache,
    key: Key,
) -> OpenVinoEngine:
    """Compile both towers, or take them from the cache.

    Args:
        programs: Both towers by name.
        cut: Where token rows may be cut.
        preprocessor: Normalises the pixels.
        precision: ``fp32`` or ``bf16``.
        threads: CPU threads; 0 leaves OpenVINO's own choice.
        cache: Where compiled towers are kept.
        key: What they depend on, besides OpenVINO and the CPU.

    Raises:
        Exception: Whatever torch or OpenVINO raises for a model that they cannot handle.
    """
    core = openvino.Core()
    options = _options(precision, threads)

    def build(folder: Path) -> None:
        for name, program in programs.items():
            model = openvino.convert_model(program.export())
            model.inputs[0].get_tensor().set_names({program.input_name})
            compiled = core.compile_model(model, "CPU", options)
            (folder / f"{name}.blob").write_bytes(compiled.export_model().getvalue())

    whole_key = {
        **key, "openvino": version(), "cpu": cpu_name(), "options": str(sorted(options.items())),
    }  # fmt: skip

    def load() -> dict[str, Any]:
        with cache.folder(whole_key, build) as folder:
            return {
                name: core.import_model((folder / f"{name}.blob").read_bytes(), "CPU", options)
                for name in programs
            }

    try:
        towers = load()
    except RuntimeError:
        # Intact, and still refused: a library that changed under the same version number.
        cache.drop(whole_key)
        towers = load()
    return OpenVinoEngine(towers, cut, preprocessor, precision)


def _options(precision: str, threads: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # A pinned thread waits for its core while another process keeps it busy.
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return options
