"""A GPU that others have filled, seen from a process that has not used it yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

_LOAD = """
import sys
from vla_retrieval.encoders import EncoderSettings, load_encoder
from vla_retrieval.errors import EncoderError
try:
    encoder = load_encoder(EncoderSettings(device="cuda"))
    print("loaded:", float((encoder.encode_instructions(["cup"]) ** 2).sum()))
except EncoderError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("left_mb", [100, 700])
def test_a_model_that_does_not_fit_is_refused_with_the_reason(left_mb: int) -> None:
    held = []
    try:
        while (free := torch.cuda.mem_get_info()[0] - (left_mb << 20)) > 2 << 20:
            held.append(torch.empty(free, dtype=torch.uint8, device="cuda"))
        done = subprocess.run(
            [sys.executable, "-c", _LOAD], cwd=Path(__file__).parents[2],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        held.clear()
        torch.cuda.empty_cache()
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip().splitlines()[-1]
    if left_mb == 100:  # CUDA itself needs more
        assert said.startswith("refused: 'vla-retrieval-demo' does not run on cuda:0")
    if said.startswith("refused: "):
        assert "memory" in said
    else:
        assert float(said.removeprefix("loaded: ")) == pytest.approx(1.0, abs=1e-4)
