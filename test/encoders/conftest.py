"""A tiny random CLIP in every form in which a model can lie around. No network, ever."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: it reads it only then

TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def torch_module() -> ModuleType:
    pytest.importorskip("open_clip")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # OpenMP threads spin: on busy cores two are slower than one
    return torch


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold for tests that run after another one has imported the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:
        from huggingface_hub import constants
    except ImportError:
        return
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tiny(torch_module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The model ``tiny-clip``, known to open_clip, with its weights in a file.

    ``name``, ``model`` (eval, fp32), ``state``, ``checkpoint`` and ``folder``.
    """
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch_module.manual_seed(7)
    model = open_clip.create_model("tiny-clip").eval()
    save_file(model.state_dict(), folder / "tiny-clip.safetensors")
    return SimpleNamespace(
        name="tiny-clip", model=model, state=model.state_dict(), folder=folder,
        checkpoint=folder / "tiny-clip.safetensors",
    )  # fmt: skip


@pytest.fixture
def load(tiny: SimpleNamespace) -> Callable[..., Any]:
    """Load the tiny model; settings can be overridden."""
    from vla_retrieval.encoders import EncoderSettings, load_encoder

    def load_tiny(**changes: Any) -> Any:
        plain = {
            "model": tiny.name, "checkpoint": str(tiny.checkpoint), "device": "cpu",
            "engine": "torch",
        }  # fmt: skip
        return load_encoder(EncoderSettings(**{**plain, **changes}))

    return load_tiny


@pytest.fixture(scope="session")
def encoder(tiny: SimpleNamespace) -> Any:
    """The tiny model, loaded once: for tests that leave no trace in it."""
    from vla_retrieval.encoders import EncoderSettings, load_encoder

    return load_encoder(
        EncoderSettings(
            model=tiny.name, checkpoint=str(tiny.checkpoint), device="cpu", engine="torch"
        )
    )


@pytest.fixture
def scene() -> Callable[..., np.ndarray]:
    """Draw something with gradients, edges and a little noise, as a camera gives it."""

    def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        y, x = y / max(1, height - 1), x / max(1, width - 1)
        image = np.stack([x, y, 1.0 - x * y], axis=2) * rng.uniform(80, 200, 3)
        for _ in range(8):
            centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.25)
            inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            image[inside] = rng.uniform(0, 255, 3)
        image += rng.normal(0, 3, image.shape)
        return image.clip(0, 255).astype(np.uint8)

    return draw


@pytest.fixture
def model_folder(tmp_path: Path, tiny: SimpleNamespace) -> Path:
    """A folder as open_clip exports it, with a preprocessing of its own."""
    from safetensors.torch import save_file

    folder = tmp_path / "exported"
    folder.mkdir()
    config = {"model_cfg": TINY, "preprocess_cfg": {"resize_mode": "squash", "mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(tiny.state, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, model_folder: Path) -> Path:
    """A Hugging Face cache that holds the repository ``made/up``, as a download leaves it."""
    repository, commit = tmp_path / "cache" / "models--made--up", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    model_folder.rename(repository / "snapshots" / commit)
    return tmp_path / "cache"
