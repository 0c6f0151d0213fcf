"""What is measured: a model, its weights, and a memory that is filled once."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tools.benchmarks.data import Recipe, stored_gallery
from tools.benchmarks.entries import Labels
from vla_retrieval.encoders import DEMO_MODEL, Encoder, EncoderSettings
from vla_retrieval.memory import Memory, MemoryOptions

DEFAULTS: Final = {"model": "ViT-B-32", "checkpoint": ""}
SIZES: Final = {"VGA": (480, 640), "720p": (720, 1280)}
_SETTLE_SEC: Final = 900.0
_CHUNK: Final = 1024


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long.

    Attributes:
        encoder: The model; without weights of its own, random ones are written once.
        work: The folder for weights, memories and compiled engines, used again by the next call.
        out: The folder for the figures.
        entries: In the memory.
        index: Kind of the memory's index.
        rounds: Most rounds of the stages.
        limit_sec: After which the stages begin no new round.
        load_sec: Length of each load.
    """

    encoder: EncoderSettings
    work: Path
    out: Path
    entries: int
    index: str
    rounds: int
    limit_sec: float
    load_sec: float

    @property
    def is_on_gpu(self) -> bool:
        """Whether the encoder will run on a GPU."""
        import torch

        return self.encoder.device != "cpu" and torch.cuda.is_available()

    def shown(self) -> dict[str, Any]:
        """What decides figures, without the names of folders."""
        encoder = asdict(self.encoder)
        kept = {name: encoder[name] for name in ("model", "device", "engine", "precision")}
        return {**kept, "threads": self.encoder.threads, "entries": self.entries,
                "index": self.index, "load_sec": self.load_sec}  # fmt: skip


def settings_of(options: argparse.Namespace) -> Settings:
    """Return what the command line asks for."""
    quick = options.quick
    model = DEMO_MODEL if quick and options.model == DEFAULTS["model"] else options.model
    checkpoint = options.checkpoint
    options.work.mkdir(parents=True, exist_ok=True)
    if not checkpoint and "/" not in model and model != DEMO_MODEL:
        checkpoint = str(random_weights(model, options.work))
    encoder = EncoderSettings(
        model=model, checkpoint=checkpoint, device=options.device, engine=options.engine,
        precision=options.precision, threads=options.threads,
        engine_cache_dir=str(options.work / "engines"),
    )  # fmt: skip
    out = options.out or options.work
    out.mkdir(parents=True, exist_ok=True)
    return Settings(
        encoder, options.work, out, min(options.entries, 2000) if quick else options.entries,
        options.index, min(options.rounds, 5) if quick else options.rounds, options.limit_sec,
        min(options.load_sec, 5.0) if quick else options.load_sec,
    )  # fmt: skip


def random_weights(model: str, work: Path) -> Path:
    """Return a file of open_clip's initial weights: as fast as trained ones, and no download."""
    path = work / f"{model.replace('/', '-')}-random.safetensors"
    if not path.exists():
        import open_clip
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        made = open_clip.create_model(model, load_weights=False)
        partial = path.with_suffix(".partial")
        save_file(made.state_dict(), partial)
        partial.rename(path)
    return path


def has_ros() -> bool:
    """Whether the parts that need ROS can run."""
    specs = [importlib.util.find_spec(name) for name in ("rclpy", "vla_retrieval_msgs")]
    return all(spec is not None and spec.origin is not None for spec in specs)


def filled_memory(settings: Settings, encoder: Encoder) -> Memory:
    """Open a memory of the encoder with so many entries, filled now where it is not there.

    It returns when the index has settled: what is measured is not the building of it.
    """
    folder = memory_folder(settings, encoder)
    memory = Memory.open(
        folder, encoder.fingerprint, durable=False, options=MemoryOptions(index=settings.index)
    )
    gallery = stored_gallery(Recipe(settings.entries, dim=encoder.dim), settings.work)
    labels = Labels(settings.entries, 0)
    for start in range(memory.stats().entries, settings.entries, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, settings.entries))
        memory.add(labels.entries(rows), gallery.scenes[rows], gallery.instructions[rows])
    memory.wait_until_idle(_SETTLE_SEC)
    return memory


def memory_folder(settings: Settings, encoder: Encoder) -> Path:
    """Where the filled memory of an encoder lies."""
    weights = encoder.fingerprint.weights.removeprefix("sha256:")[:12]
    return settings.work / f"memory-{weights}-{settings.entries}-{settings.index}"
