"""From a process that starts to its first answer: the first time, and with compiled engines."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from typing import Any

from tools.benchmarks.pipeline.bench import Settings

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
    """Start three times: without compiled engines, with them, and with torch alone.

    Returns:
        Seconds by start; ``torch`` needs no compiled engine.
    """
    with tempfile.TemporaryDirectory(dir=settings.work) as folder:
        compiled = dataclasses.replace(settings.encoder, engine_cache_dir=folder)
        plain = dataclasses.replace(settings.encoder, engine="torch", precision="fp32")
        return {
            "first": _start(dataclasses.asdict(compiled)),
            "second": _start(dataclasses.asdict(compiled)),
            "torch": _start(dataclasses.asdict(plain)),
        }


def _start(encoder: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(encoder)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds
