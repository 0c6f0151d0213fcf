"""From a process that starts to its first answer: the first time, and with compiled engines."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

from tools.benchmarks.pipeline.bench import Settings, filled_memory, has_ros
from vla_retrieval.encoders import load_encoder

_START_SEC: Final = 300.0

_PROGRAM = """
import json, sys, time
begun = time.perf_counter()
import numpy as np
from vla_retrieval.encoders import EncoderSettings, load_encoder
encoder = load_encoder(EncoderSettings(**json.loads(sys.argv[1])))
loaded = time.perf_counter()
encoder.warm_up()
warm = time.perf_counter()
encoder.encode_images([np.zeros((480, 640, 3), np.uint8)])
encoder.encode_instructions(["pick up the cup"])
print(json.dumps({"load": loaded - begun, "warm_up": warm - loaded,
                  "first answer": time.perf_counter() - begun}))
"""


def measure(settings: Settings) -> dict[str, Any]:
    """Start an encoder without compiled engines, with them, and with torch alone; then a node.

    Returns:
        ``encoder``: seconds by start; ``torch`` needs no compiled engine. ``node``, where ROS is
        installed: seconds by start, from the process to the first answer to a question.
    """
    with tempfile.TemporaryDirectory(dir=settings.work) as folder:
        compiled = dataclasses.replace(settings.encoder, engine_cache_dir=folder)
        plain = dataclasses.replace(settings.encoder, engine="torch", precision="fp32")
        found: dict[str, Any] = {
            "encoder": {
                "first": _start(dataclasses.asdict(compiled)),
                "second": _start(dataclasses.asdict(compiled)),
                "torch": _start(dataclasses.asdict(plain)),
            }
        }
    if has_ros():
        found["node"] = _starts_of_a_node(settings)
    return found


def _starts_of_a_node(settings: Settings) -> dict[str, float]:
    from tools.benchmarks.pipeline.running import copied_memory, own_domain, running_node
    from vla_retrieval.ros.client import RetrievalClient

    encoder = load_encoder(settings.encoder)
    filled_memory(settings, encoder).close()
    seconds: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(dir=settings.work) as folder,
        copied_memory(settings, encoder) as memory_dir,
    ):
        compiled = dataclasses.replace(settings.encoder, engine_cache_dir=folder)
        for name in ("first", "second"):
            with own_domain(), RetrievalClient() as client:
                begun = time.perf_counter()
                with running_node(compiled, memory_dir, settings.index) as is_alive:
                    if not client.wait_until_active(is_alive, _START_SEC):
                        raise RuntimeError("the node did not become active; its output is above")
                    client.call("retrieve", instruction="pick up the cup", k=5)
                    seconds[name] = time.perf_counter() - begun
    return seconds


def _start(encoder: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(encoder)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds
