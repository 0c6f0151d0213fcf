"""The two towers of a model, compiled and run by OpenVINO on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import openvino
import torch

from vla_retrieval.encoders.compiled_engine import CompiledEngine, Order, Tower

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def cpu_name() -> str:
    """Return the CPU's name and what OpenVINO can use of it."""
    core = openvino.Core()
    abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {' '.join(sorted(abilities))}"


def has_fast_bf16() -> bool:
    """Return whether the CPU multiplies in bf16 (AVX-512 BF16 or AMX); otherwise fp32 is faster."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load_openvino_engine(order: Order) -> CompiledEngine:
    """Compile both towers, or take them from the cache.

    Args:
        order: What is compiled; the precision is ``fp32`` or ``bf16``.

    Raises:
        Exception: Whatever torch or OpenVINO raises for a model that they cannot handle.
    """
    core = openvino.Core()
    options = _options(order)

    def build(folder: Path) -> None:
        for name, program in order.programs.items():
            model = openvino.convert_model(program.export())
            model.inputs[0].get_tensor().set_names({program.input_name})
            compiled = core.compile_model(model, "CPU", options)
            (folder / f"{name}.blob").write_bytes(compiled.export_model().getvalue())

    key = {
        **order.key, "openvino": str(openvino.get_version()), "cpu": cpu_name(),
        "options": str(sorted(options.items())),
    }  # fmt: skip

    def load() -> dict[str, Tower]:
        with order.cache.folder(key, build) as folder:
            return {
                name: _tower(
                    core.import_model((folder / f"{name}.blob").read_bytes(), "CPU", options)
                )
                for name in order.programs
            }

    try:
        towers = load()
    except RuntimeError:
        # Intact, and still refused: a library that changed under the same version number.
        order.cache.drop(key)
        towers = load()
    return CompiledEngine("openvino", towers, order)


def _tower(compiled: Any) -> Tower:
    """Return one compiled model with one request: it uses all cores, a second would share them."""
    request = compiled.create_infer_request()
    # Protects the request, which holds input and output of one call.
    lock = threading.Lock()

    def run(rows: torch.Tensor) -> torch.Tensor:
        with lock:
            return torch.from_numpy(request.infer([rows.numpy()], share_inputs=True)[0])

    return run


def _options(order: Order) -> dict[str, Any]:
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[order.precision],
        # A pinned thread waits for its core while another process keeps it busy.
        "ENABLE_CPU_PINNING": False,
    }
    if order.threads:
        options["INFERENCE_NUM_THREADS"] = order.threads
    return options
