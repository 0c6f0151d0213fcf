"""Small pairs whose right answer is known."""

from __future__ import annotations

import numpy as np

from vla_retrieval.training import Pairs
from vla_retrieval.types import Fingerprint

DIM = 24


def units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def pairs(
    scenes: np.ndarray, instructions: np.ndarray, labels: np.ndarray, episodes: np.ndarray
) -> Pairs:
    return Pairs(
        Fingerprint("made-up", "sha256:0", "none", scenes.shape[1]),
        units(scenes),
        units(instructions),
        tuple(f"do {label}" for label in labels),
        tuple(f"task {label}" for label in labels),
        tuple(f"episode {episode}" for episode in episodes),
    )


def tasks(labels: int = 8, episodes: int = 8, frames: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label and the episode of each row."""
    label = np.repeat(np.arange(labels), episodes * frames)
    return label, np.repeat(np.arange(labels * episodes), frames)


def rotated(seed: int = 0) -> Pairs:
    """Scenes around a point of their task; instructions at the same point, turned elsewhere."""
    rng = np.random.default_rng(seed)
    label, episode = tasks()
    points = rng.standard_normal((8, DIM))
    turn, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    noise = 0.2 * rng.standard_normal((len(label), DIM))
    return pairs(points[label] + noise, points[label] @ turn, label, episode)


def aligned(seed: int = 0) -> Pairs:
    """Scenes and instructions that find each other without being taught."""
    rng = np.random.default_rng(seed)
    label, episode = tasks()
    points = rng.standard_normal((8, DIM))
    noise = 0.1 * rng.standard_normal((len(label), DIM))
    return pairs(points[label] + noise, points[label], label, episode)


def with_nuisance(seed: int = 0) -> Pairs:
    """Scenes whose first eight numbers tell the task, among sixteen that vary much more."""
    rng = np.random.default_rng(seed)
    label, episode = tasks()
    points = 0.5 * rng.standard_normal((8, 8))
    signal = points[label] + 0.05 * rng.standard_normal((len(label), 8))
    nuisance = 1.5 * rng.standard_normal((len(label), DIM - 8))
    words = np.pad(points[label], ((0, 0), (0, DIM - 8)))
    return pairs(np.concatenate([signal, nuisance], axis=1), words, label, episode)
