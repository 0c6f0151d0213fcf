"""The two towers of a model, converted to ONNX and run by ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import onnxscript
import torch

from vla_retrieval.encoders.compiled_engine import CompiledEngine, Order, Tower
from vla_retrieval.encoders.exporting import Program, quiet_export

_ERRORS_ONLY = 3
_PROVIDERS = ["CPUExecutionProvider"]


def load_onnxruntime_engine(order: Order) -> CompiledEngine:
    """Convert both towers to ONNX, or take them from the cache, and open sessions for them.

    Args:
        order: What is converted; the precision is ``fp32`` or ``int8``.

    Raises:
        Exception: Whatever torch, onnx or ONNX Runtime raises for a model that they cannot handle.
    """
    key = {
        **order.key, "precision": order.precision,
        # Who runs the graph (and quantises it), and who translates it.
        **{of.__name__: str(of.__version__) for of in (onnxruntime, onnx, onnxscript)},
    }  # fmt: skip
    write = _write_onnx if order.precision == "fp32" else _write_quantized

    def build(folder: Path) -> None:
        for name, program in order.programs.items():
            write(program, folder / f"{name}.onnx")

    with order.cache.folder(key, build) as folder:
        towers = {
            name: _tower(folder / f"{name}.onnx", program.input_name, order.threads)
            for name, program in order.programs.items()
        }
    return CompiledEngine("onnxruntime", towers, order)


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


def _tower(path: Path, input_name: str, threads: int) -> Tower:
    """Open a session, which many threads may run at a time."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait stall inference beside a busy process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=_PROVIDERS)

    def run(rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {input_name: rows.numpy()})[0])

    return run
