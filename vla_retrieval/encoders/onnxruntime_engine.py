"""The two towers of a model, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from vla_retrieval.encoders.artefacts import ArtefactCache, Key
from vla_retrieval.encoders.exporting import (
    IMAGE,
    PIXELS,
    TEXT,
    TOKENS,
    Program,
    quiet_export,
)
from vla_retrieval.encoders.preprocessing import Preprocessor
from vla_retrieval.encoders.towers import TextCut

_ERRORS_ONLY = 3
_PROVIDERS = ["CPUExecutionProvider"]


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(onnxruntime.__version__)


class OnnxRuntimeEngine:
    """Both towers as sessions of ONNX Runtime, which many threads may run at a time.

    Args:
        sessions: By the tower's name.
        cut: Where token rows may be cut.
        preprocessor: Normalises the pixels.
        precision: ``fp32`` or ``int8``.
    """

    def __init__(
        self,
        sessions: Mapping[str, Any],
        cut: TextCut,
        preprocessor: Preprocessor,
        precision: str,
    ) -> None:
        self._image, self._text = sessions[IMAGE], sessions[TEXT]
        self._cut = cut
        self._preprocessor = preprocessor
        self._precision = precision

    @property
    def name(self) -> str:
        """Always ``"onnxruntime"``."""
        return "onnxruntime"

    @property
    def device(self) -> str:
        """Always ``"cpu"``."""
        return "cpu"

    @property
    def precision(self) -> str:
        """``"fp32"`` or ``"int8"``."""
        return self._precision

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Lengths of token rows that it computes with, ascending."""
        return self._cut.lengths

    def embed_pixels(self, prepared: torch.Tensor) -> torch.Tensor:
        """Embed what the preprocessor prepared, shape ``(n, 3, height, width)``."""
        pixels = self._preprocessor.normalize(prepared)
        return torch.from_numpy(self._image.run(None, {PIXELS: pixels.numpy()})[0])

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids, int64, shape ``(n, context_length)``."""
        return torch.from_numpy(self._text.run(None, {TOKENS: self._cut.cut(tokens).numpy()})[0])


def load_onnxruntime_engine(
    programs: Mapping[str, Program],
    cut: TextCut,
    preprocessor: Preprocessor,
    precision: str,
    threads: int,
    cache: ArtefactCache,
    key: Key,
) -> OnnxRuntimeEngine:
    """Convert both towers to ONNX, or take them from the cache, and open sessions for them.

    Args:
        programs: Both towers by name.
        cut: Where token rows may be cut.
        preprocessor: Normalises the pixels.
        precision: ``fp32`` or ``int8``.
        threads: CPU threads; 0 leaves ONNX Runtime's own choice.
        cache: Where converted towers are kept.
        key: What they depend on, besides ONNX Runtime.

    Raises:
        Exception: Whatever torch, onnx or ONNX Runtime raises for a model that they cannot handle.
    """
    whole_key = {**key, "onnxruntime": version(), "precision": precision}
    write = _write_onnx if precision == "fp32" else _write_quantized

    def build(folder: Path) -> None:
        for name, program in programs.items():
            write(program, folder / f"{name}.onnx")

    with cache.folder(whole_key, build) as folder:
        sessions = {name: _open(folder / f"{name}.onnx", threads) for name in programs}
    return OnnxRuntimeEngine(sessions, cut, preprocessor, precision)


def _write_onnx(program: Program, path: Path) -> None:
    exported = program.export()
    with quiet_export():
        made: Any = torch.onnx.export(exported, dynamo=True, verbose=False)
        made.save(str(path), external_data=True)  # a file without holds at most 2 GB


def _write_quantized(program: Program, path: Path) -> None:
    """Write a model whose matrix products are of 8-bit integers.

    Weights get 7 bits, and a scale for each column: with 8 bits, CPUs without VNNI overflow when
    they add two products (a cosine of 0.994 instead of 0.9998 for images of a ViT-B-32).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        _write_onnx(program, whole)
        with quiet_export():
            quantize_dynamic(
                whole, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                reduce_range=True, weight_type=QuantType.QInt8, use_external_data_format=True,
            )  # fmt: skip


def _open(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait stall inference beside a busy process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=_PROVIDERS)
