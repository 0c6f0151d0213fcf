"""Training on another device than the CPU: every tensor is moved there, and the head comes back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from test.training import made_up
from test.training.elsewhere import DEVICE, Elsewhere, Pretended
from vla_retrieval.heads import METHODS
from vla_retrieval.training import TrainingSettings, contrast, learner, train
from vla_retrieval.training.train import Trained

pytest.importorskip("pytorch_metric_learning")

ALL = pytest.mark.parametrize("method", list(METHODS))
PAIRS = {
    "joint": made_up.rotated(),
    "metric": made_up.with_nuisance(),  # in the others the miner finds nothing hard
    "hash": made_up.aligned(),
}


def trained(method: str, device: str) -> Trained:
    settings = TrainingSettings(method, epochs=3, batch=32, bits=64, device=device)
    return train(PAIRS[method], settings)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training take the device for one that is there."""
    monkeypatch.setattr("vla_retrieval.training.fitting.training_device", lambda wanted: wanted)


@ALL
@pytest.mark.usefixtures("elsewhere")
def test_training_elsewhere_computes_what_it_computes_on_the_cpu(method: str) -> None:
    with Pretended():
        found = trained(method, DEVICE)
    expected = trained(method, "cpu")
    assert any(expected.record["curves"]["loss"])
    assert found.record["curves"] == expected.record["curves"]
    assert found.head.digest == expected.head.digest


@pytest.mark.usefixtures("elsewhere")
def test_a_tensor_that_stays_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def stays(head, device):  # type: ignore[no-untyped-def]
        return {name: torch.from_numpy(array.copy()) for name, array in head.weights.items()}

    for module in ("joint", "metric", "hashing"):
        monkeypatch.setattr(f"vla_retrieval.training.{module}.to_tensors", stays)
    for method in METHODS:
        with Pretended(), pytest.raises(RuntimeError, match=r"tensors of \['cpu', 'meta'\]"):
            trained(method, DEVICE)


@pytest.mark.usefixtures("elsewhere")
def test_what_is_elsewhere_is_no_array() -> None:
    with Pretended():
        moved = torch.ones(3).to(DEVICE)
        assert isinstance(moved, Elsewhere)
        with pytest.raises((RuntimeError, TypeError)):
            moved.numpy()
        np.testing.assert_array_equal(learner.to_array(2 * moved), np.full(3, 2, np.float32))
        attracted = contrast.attraction(torch.arange(3).to(DEVICE), torch.arange(3).to(DEVICE))
        assert {of.device.type for of in contrast.index_pairs(attracted, itself=False)} == {DEVICE}


def test_no_module_of_training_makes_a_tensor_without_saying_where() -> None:
    """A miner or a branch that the steps above do not take may still make tensors."""
    makes = re.compile(r"torch\.(zeros|ones|empty|full|arange|tensor|rand|randn|eye)\(")
    for path in Path(learner.__file__).parent.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not makes.search(line) or "device=" in line, f"{path.name}: {line.strip()}"


@ALL
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_on_a_gpu_comes_to_nearly_the_same(method: str) -> None:
    found, expected = trained(method, "cuda"), trained(method, "cpu")
    np.testing.assert_allclose(
        found.record["curves"]["loss"], expected.record["curves"]["loss"], rtol=1e-2
    )
