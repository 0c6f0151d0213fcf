"""The two towers of a model, compiled and run by OpenVINO on the CPU.

A picture takes several times as long as an instruction. The image tower is run in parts, so that a
picture can let an instruction go first: both share the cores, and beside a picture an instruction
would take up to four times as long as alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino
import torch

from vla_retrieval.encoders.compiled_engine import CompiledEngine, Order, Tower
from vla_retrieval.encoders.exporting import IMAGE, Program
from vla_retrieval.encoders.splitting import split
from vla_retrieval.right_of_way import LONGEST_WAIT_SEC, RightOfWay

_PART_SEC = 0.005
"""About how long one picture takes in a part: an instruction takes longer than that."""

_MOST_PARTS = 8  # each cut costs a picture 0.7 % of its time
_TIMED = 5  # pictures

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
            compiled = [core.compile_model(model, "CPU", options)]
            if name == IMAGE and (parts := _worthwhile_parts(compiled[0], program)) > 1:
                compiled = [core.compile_model(p, "CPU", options) for p in split(model, parts)]
            for number, part in enumerate(compiled):
                path = folder / f"{name}-{number:02}.blob"
                path.write_bytes(part.export_model().getvalue())

    key = {
        **order.key, "openvino": str(openvino.get_version()), "cpu": cpu_name(),
        "options": str(sorted(options.items())), "parts": "1",  # counts changes of how it is cut
    }  # fmt: skip
    right_of_way = RightOfWay()

    def load() -> dict[str, Tower]:
        with order.cache.folder(key, build) as folder:
            return {
                name: _tower(
                    [
                        core.import_model(path.read_bytes(), "CPU", options)
                        for path in sorted(folder.glob(f"{name}-*.blob"))
                    ],
                    right_of_way,
                )
                for name in order.programs
            }

    try:
        towers = load()
    except RuntimeError:
        # Intact, and still refused: a library that changed under the same version number.
        order.cache.drop(key)
        towers = load()
    return CompiledEngine("openvino", towers, order, right_of_way)


def _tower(compiled: Sequence[Any], right_of_way: RightOfWay) -> Tower:
    """Return one tower with one request a part: it uses all cores, a second would wait for it."""
    first, *others = (part.create_infer_request() for part in compiled)
    # Protects the requests, which hold input and output of one call.
    lock = threading.Lock()

    def run(rows: torch.Tensor) -> torch.Tensor:
        with lock:
            first.infer([rows.numpy()], share_inputs=True, share_outputs=True)
            last, left_sec = first, LONGEST_WAIT_SEC
            for request in others:
                left_sec -= right_of_way.give_way(left_sec)
                for place, tensor in enumerate(last.output_tensors):
                    request.set_input_tensor(place, tensor)
                request.infer(share_outputs=True)
                last = request
            return torch.from_numpy(last.get_output_tensor().data.copy())

    return run


def _worthwhile_parts(compiled: Any, program: Program) -> int:
    """Return in how many parts the image tower is run, by how long it takes for one picture."""
    request, rows = compiled.create_infer_request(), program.example[:1].numpy()
    request.infer([rows])
    seconds = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        request.infer([rows])
        seconds.append(time.perf_counter() - started)
    return max(1, min(round(min(seconds) / _PART_SEC), _MOST_PARTS))


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
