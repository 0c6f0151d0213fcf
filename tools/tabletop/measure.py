"""Measure the shipped weights on scenes with combinations never seen in training.

``python -m tools.tabletop.measure`` renders the test gallery, asks it the instructions that fit
exactly one of its scenes, and prints one line a question set with bootstrap 95% intervals over the
queries.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tools.tabletop.dataset import split_rng
from tools.tabletop.gallery import (
    GALLERY_SEED,
    Gallery,
    build_gallery,
    full_instructions,
    unique_instructions,
)
from tools.tabletop.language import Instruction, ObjectPhrase
from tools.tabletop.model import WEIGHTS_PATH, load_shipped
from tools.tabletop.phrases import LANGUAGES, WORDS, Language, say, say_with_word
from tools.tabletop.truth import BoolArray, truth_matrix
from tools.tabletop.vocabulary import COLOURS, KINDS, Split

FloatArray = npt.NDArray[np.float32]

_BOOTSTRAPS: Final = 2000
_LEVELS: Final = (1, 5)


@dataclass(frozen=True)
class Figure:
    """hit@K of one question set: the share of its queries with a relevant item among the first K.

    Attributes:
        name: The question set.
        queries: How many queries it has.
        candidates: How many items each query is ranked against.
        hits: hit@K of each K.
        intervals: The bootstrap 95% interval of each, over the queries.
    """

    name: str
    queries: int
    candidates: int
    hits: dict[int, float]
    intervals: dict[int, tuple[float, float]]

    def line(self) -> str:
        """The figure as a line of the table."""
        cells = [
            f"hit@{level} {self.hits[level]:.3f} [{low:.3f}, {high:.3f}]"
            for level, (low, high) in self.intervals.items()
        ]
        return f"{self.name:<58} {self.queries:>5} {self.candidates:>5}   " + "   ".join(cells)


class Embedder:
    """The shipped model as two functions to unit vectors.

    Args:
        weights: The safetensors file.
    """

    def __init__(self, weights: Path = WEIGHTS_PATH) -> None:
        self._model, self._preprocess, self._tokenizer = load_shipped(weights)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Any]) -> FloatArray:
        """Embeddings of PIL pictures, ``(n, dim)``, L2-normalised."""
        parts = [
            self._model.encode_image(
                torch.stack([self._preprocess(p) for p in pictures[i : i + 50]]), normalize=True
            )
            for i in range(0, len(pictures), 50)
        ]
        return np.asarray(torch.cat(parts).float().numpy())

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> FloatArray:
        """Embeddings of instructions, ``(n, dim)``, L2-normalised."""
        parts = [
            self._model.encode_text(self._tokenizer(list(texts[i : i + 100])), normalize=True)
            for i in range(0, len(texts), 100)
        ]
        return np.asarray(torch.cat(parts).float().numpy())


def hit_figure(name: str, scores: FloatArray, relevant: BoolArray, seed: int = 0) -> Figure:
    """hit@K of queries (rows) over candidates (columns); equal scores rank by the lower column."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(relevant, order, axis=1)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(ranked), size=(_BOOTSTRAPS, len(ranked)))
    hits, intervals = {}, {}
    for level in _LEVELS:
        hit = np.asarray(ranked[:, :level].any(axis=1), dtype=np.float64)
        means = np.asarray(hit[draws]).mean(axis=1)
        low, high = (float(np.quantile(means, share)) for share in (0.025, 0.975))
        hits[level], intervals[level] = float(hit.mean()), (low, high)
    return Figure(name, scores.shape[0], scores.shape[1], hits, intervals)


def figures(
    embedder: Embedder, gallery: Gallery, split: Split, per_scene: int = 3, seed: int = GALLERY_SEED
) -> list[Figure]:
    """Every question set on one gallery, in both languages."""
    images = embedder.images(gallery.pictures)
    combination = "trained" if split == "train" else "held-out"
    full = full_instructions(gallery, split, per_scene, seed)
    partial = unique_instructions(gallery, split, per_scene, seed)
    found = []
    for language in LANGUAGES:
        rng = split_rng(seed, split, 2 + LANGUAGES.index(language))
        truth, scores = _asked(embedder, gallery, images, full, language, rng)
        name = f"{language}: full instruction, {combination} target -> scene"
        found.append(hit_figure(name, scores, truth))
        answerable = truth.any(axis=0)
        name = f"{language}: scene -> those instructions"
        found.append(hit_figure(name, scores.T[answerable], truth.T[answerable]))
        truth, scores = _asked(embedder, gallery, images, partial, language, rng)
        found.append(
            hit_figure(f"{language}: partial instruction of one scene -> scene", scores, truth)
        )
        found.append(_generic(embedder, gallery, images, language, rng))
        found.append(_synonyms(embedder, gallery, images, full, language, rng))
    return found


def _asked(
    embedder: Embedder,
    gallery: Gallery,
    images: FloatArray,
    instructions: list[Instruction],
    language: Language,
    rng: np.random.Generator,
) -> tuple[BoolArray, FloatArray]:
    texts = embedder.texts([say(instruction, language, rng) for instruction in instructions])
    return truth_matrix(instructions, gallery.table), texts @ images.T


def _generic(
    embedder: Embedder,
    gallery: Gallery,
    images: FloatArray,
    language: Language,
    rng: np.random.Generator,
) -> Figure:
    phrases = [ObjectPhrase(kind=kind) for kind in KINDS] + [
        ObjectPhrase(colour=colour) for colour in COLOURS
    ]
    instructions = [Instruction("pick", phrase) for phrase in phrases for _ in range(5)]
    truth, scores = _asked(embedder, gallery, images, instructions, language, rng)
    return hit_figure(f"{language}: kind or colour only (many scenes fit) -> scene", scores, truth)


def _synonyms(
    embedder: Embedder,
    gallery: Gallery,
    images: FloatArray,
    named: list[Instruction],
    language: Language,
    rng: np.random.Generator,
) -> Figure:
    asked, words = [], []
    for instruction in named:
        others = WORDS[language][instruction.target.kind][1:] if instruction.target.kind else ()
        if others:
            asked.append(instruction)
            words.append(others[int(rng.integers(len(others)))])
    texts = [say_with_word(i, language, word, rng) for i, word in zip(asked, words, strict=True)]
    truth = truth_matrix(asked, gallery.table)
    return hit_figure(
        f"{language}: target called by a synonym -> scene", embedder.texts(texts) @ images.T, truth
    )


def separation(
    embedder: Embedder, gallery: Gallery, split: Split, seed: int = GALLERY_SEED
) -> dict[str, float]:
    """Cosines of fitting and of other pairs, and how often the fitting one is higher."""
    images = embedder.images(gallery.pictures)
    rng = split_rng(seed, split, 5)
    instructions = full_instructions(gallery, split, 3, seed)
    texts = [say(instruction, LANGUAGES[n % 2], rng) for n, instruction in enumerate(instructions)]
    truth = truth_matrix(instructions, gallery.table)
    scores = embedder.texts(texts) @ images.T
    fitting, others = scores[truth], scores[~truth]
    rank = np.searchsorted(np.sort(others), fitting) / len(others)
    return {
        "fitting_mean": float(fitting.mean()),
        "fitting_p10": float(np.quantile(fitting, 0.1)),
        "other_mean": float(others.mean()),
        "other_p90": float(np.quantile(others, 0.9)),
        "other_p99": float(np.quantile(others, 0.99)),
        "auc": float(rank.mean()),
    }


def main() -> None:
    """Print the table and optionally write it as JSON."""
    parser = argparse.ArgumentParser(
        description="Measure the demonstration model on held-out combinations."
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS_PATH)
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test")
    parser.add_argument("--scenes", type=int, default=200, help="size of the gallery")
    parser.add_argument("--seed", type=int, default=GALLERY_SEED)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    gallery = build_gallery(options.split, options.scenes, options.seed)
    embedder = Embedder(options.weights)
    found = figures(embedder, gallery, options.split, seed=options.seed)
    apart = separation(embedder, gallery, options.split, options.seed)
    print(f"{'question set':<58} {'asked':>5} {'among':>5}")
    for figure in found:
        print(figure.line())
    print("cosine: " + ", ".join(f"{name} {value:.3f}" for name, value in apart.items()))
    if options.json:
        report = {
            "figures": [asdict(figure) for figure in found],
            "cosine": apart,
            "split": options.split,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
