"""The stages of training and what they share; ``train`` runs them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tools.tabletop.batches import ImageBatch, ImageBatches, TextBatch, TextBatches, prefetched
from tools.tabletop.dataset import SceneTable, load_training_set
from tools.tabletop.facts import FactTower, MeaningTower
from tools.tabletop.language import altered, sample_instruction
from tools.tabletop.losses import CellHeads, contrastive_losses, imitation_losses
from tools.tabletop.model import CompactTokenizer, compact_model, encode_trimmed_text, read_config
from tools.tabletop.phrases import LANGUAGES, say

Losses = dict[str, torch.Tensor]
Report = dict[str, float]

_EMA_DECAY: Final = 0.99
_OTHER_SCENES: Final = 300


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides the pictures."""

    seed: int = 7
    facts_steps: int = 900
    facts_families: int = 150
    facts_rate: float = 3e-3
    refine_steps: int = 450
    refine_rate: float = 1.5e-3
    words_steps: int = 2000
    words_families: int = 100
    words_per_language: int = 40
    words_rate: float = 2e-3
    looks_steps: int = 450
    looks_rate: float = 2e-3
    sight_steps: int = 750
    sight_rate: float = 1.5e-3
    both_steps: int = 150
    both_per_language: int = 32
    both_rate: float = 2e-4
    image_families: int = 48
    weight_decay: float = 0.02


class Descent:
    """AdamW with a short warm-up and a cosine down to 2% of the rate, over some modules."""

    def __init__(
        self, modules: list[nn.Module], steps: int, rate: float, weight_decay: float
    ) -> None:
        named = dict(item for module in modules for item in _named(module))
        # Embeddings, gains and biases are left out of the weight decay, as in CLIP.
        decayed = [
            value for name, value in named.items() if value.ndim > 1 and "embedding" not in name
        ]
        others = [value for name, value in named.items() if value.ndim <= 1 or "embedding" in name]
        groups = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._parameters = decayed + others
        self._optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        warmup = min(100, max(1, steps // 10))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser,
            lambda step: (
                min(1.0, (step + 1) / warmup)
                * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, step / steps))))
            ),
        )

    def step(self, losses: Losses) -> Report:
        """Take one step down the sum of the losses, and return them."""
        self._optimiser.zero_grad(set_to_none=True)
        total: Any = torch.stack(list(losses.values())).sum()
        total.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        self._schedule.step()
        return {name: float(value.detach()) for name, value in losses.items()}


def _named(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    # The identity makes the names of different modules' parameters different.
    return [(f"{id(module)}.{name}", value) for name, value in module.named_parameters()]


class Course:
    """The model, its teachers and its data.

    Args:
        data: Folder written by ``tools.tabletop.dataset``.
        settings: The run's settings.
    """

    def __init__(self, data: Path, settings: Settings) -> None:
        self.settings = settings
        config = read_config()
        self.size = int(config["vision_cfg"]["image_size"])
        self.pictures, self.table = load_training_set(data)
        self.tokenizer = CompactTokenizer(training_corpus(self.table, settings.seed))
        torch.manual_seed(settings.seed)
        self.model: Any = compact_model(self.tokenizer).to(memory_format=torch.channels_last)
        self.facts = FactTower(config["embed_dim"])
        self.meanings = MeaningTower(self.facts, config["embed_dim"], config["text_cfg"]["width"])
        cells = (self.size // 32) ** 2
        self.map_heads = CellHeads(config["vision_cfg"]["width"] * 32 * cells)
        self.mean: dict[str, torch.Tensor] = {}
        self._feature_map = torch.empty(0)
        visual: Any = self.model.visual
        visual.layer4.register_forward_hook(self._keep_feature_map)

    def state(self, parts: tuple[str, ...]) -> dict[str, Any]:
        """The state of the named parts, as a stage leaves it to those after it."""
        return {part: self._part(part).state_dict() for part in parts}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` returned."""
        for part, values in state.items():
            self._part(part).load_state_dict(values)

    def shipped_state(self) -> dict[str, torch.Tensor]:
        """The running mean of the last stage's weights."""
        return self.mean

    def facts_stage(self) -> Iterator[Report]:
        """Fit the stand-ins to each other."""
        return self._fit_facts(6, self.settings.facts_steps, self.settings.facts_rate)

    def refine_stage(self) -> Iterator[Report]:
        """Fit them once more, from where they are and at a lower rate."""
        return self._fit_facts(14, self.settings.refine_steps, self.settings.refine_rate)

    def _fit_facts(self, stream: int, steps: int, rate: float) -> Iterator[Report]:
        batches = self._texts(stream).meanings(self.settings.facts_families)
        modules: list[nn.Module] = [self.meanings, self._part("scale")]
        descent = self._descent(modules, steps, rate)
        for batch in islice(prefetched(batches), steps):
            cosines = self.meanings(batch.instructions) @ self.facts(batch.table).T
            yield descent.step(self._contrast(cosines, batch))

    def words_stage(self) -> Iterator[Report]:
        """Teach the text tower the embedding of meanings."""
        settings = self.settings
        batches = self._texts(7).batches(settings.words_families, settings.words_per_language)
        descent = self._descent([self._part("text")], settings.words_steps, settings.words_rate)
        for batch in islice(prefetched(batches), settings.words_steps):
            with torch.no_grad():
                meanings, facts = self.meanings(batch.instructions), self.facts(batch.table)
            texts = self.encode_texts(batch)
            losses = imitation_losses(texts, meanings, self.scale())
            contrast = self._contrast(texts @ facts.T, batch)
            yield descent.step(losses | {name: 0.3 * value for name, value in contrast.items()})

    def looks_stage(self) -> Iterator[Report]:
        """Teach the image tower what stands in each cell."""
        settings = self.settings
        modules: list[nn.Module] = [self.model.visual, self.map_heads]
        descent = self._descent(modules, settings.looks_steps, settings.looks_rate)
        for batch in islice(prefetched(self._images(8)), settings.looks_steps):
            self.encode_images(batch)
            yield descent.step({"cells": self._cell_loss(batch)})

    def sight_stage(self) -> Iterator[Report]:
        """Teach the image tower the embedding of facts."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, 9])
        modules: list[nn.Module] = [self.model.visual, self.map_heads]
        descent = self._descent(modules, settings.sight_steps, settings.sight_rate)
        for batch in islice(prefetched(self._images(10)), settings.sight_steps):
            losses = self._imitate_facts(self.encode_images(batch), batch, rng)
            yield descent.step(losses | {"cells": 0.3 * self._cell_loss(batch)})

    def both_stage(self) -> Iterator[Report]:
        """Let pictures and instructions meet, and keep a running mean of the weights."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, 11])
        about = self._texts(12)
        descent = self._descent([self.model], settings.both_steps, settings.both_rate)
        for step, batch in enumerate(
            islice(prefetched(self._images(13)), settings.both_steps), start=1
        ):
            said = about.about(batch.table, settings.both_per_language)
            images, texts = self.encode_images(batch), self.encode_texts(said)
            with torch.no_grad():
                meanings = self.meanings(said.instructions)
            losses = self._contrast(texts @ images.T, said) | self._imitate_facts(
                images, batch, rng
            )
            losses["words"] = imitation_losses(texts, meanings, self.scale())["imitate"]
            yield descent.step(losses)
            self._follow(step)

    def scale(self) -> torch.Tensor:
        """The factor of the cosines, without gradient."""
        factor: torch.Tensor = self.model.logit_scale.exp().detach()
        return factor

    def encode_texts(self, batch: TextBatch) -> torch.Tensor:
        """Unit vectors of the batch's instructions, in their order."""
        return torch.cat([encode_trimmed_text(self.model, numbers) for numbers in batch.texts])

    def encode_images(self, batch: ImageBatch) -> torch.Tensor:
        """Unit vectors of the batch's pictures."""
        self.model.train()
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            features = self.model.visual(images)
        return functional.normalize(features.float(), dim=-1)

    def _imitate_facts(
        self, images: torch.Tensor, batch: ImageBatch, rng: np.random.Generator
    ) -> Losses:
        others = self.table.rows(rng.integers(len(self.table), size=_OTHER_SCENES))
        with torch.no_grad():
            facts = torch.cat([self.facts(batch.table), self.facts(others)])
        return imitation_losses(images, facts, self.scale())

    def _contrast(self, cosines: torch.Tensor, batch: TextBatch) -> Losses:
        return contrastive_losses(
            cosines, batch.truth, self.model.logit_scale.exp(), self.model.logit_bias
        )

    def _cell_loss(self, batch: ImageBatch) -> torch.Tensor:
        features = self._feature_map.float().flatten(1)
        return self.map_heads.loss(features, batch.cell_kinds, batch.cell_colours)

    def _texts(self, stream: int) -> TextBatches:
        return TextBatches(
            self.table, self.tokenizer, np.random.default_rng([self.settings.seed, stream])
        )

    def _images(self, stream: int) -> Iterator[ImageBatch]:
        rng = np.random.default_rng([self.settings.seed, stream])
        return ImageBatches(self.pictures, self.table, self.size, rng).batches(
            self.settings.image_families
        )

    def _descent(self, modules: list[nn.Module], steps: int, rate: float) -> Descent:
        return Descent(modules, steps, rate, self.settings.weight_decay)

    def _part(self, name: str) -> nn.Module:
        model = self.model
        return {
            "meanings": self.meanings,
            "visual": model.visual,
            "map_heads": self.map_heads,
            "scale": _holder(model, ("logit_scale", "logit_bias")),
            "text": nn.ModuleList(
                [
                    model.token_embedding,
                    model.transformer,
                    model.ln_final,
                    _holder(model, ("positional_embedding", "text_projection")),
                ]
            ),
        }[name]

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        state = self.model.state_dict()
        if not self.mean:
            self.mean = {name: value.clone() for name, value in state.items()}
        decay = min(_EMA_DECAY, step / (step + 10))
        for name, value in state.items():
            if value.is_floating_point():
                self.mean[name].lerp_(value, 1.0 - decay)
            else:
                self.mean[name].copy_(value)

    def _keep_feature_map(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self._feature_map = output


def _holder(model: Any, names: tuple[str, ...]) -> nn.Module:
    return nn.ParameterDict({name: getattr(model, name) for name in names})


def training_corpus(table: SceneTable, seed: int, count: int = 10_000) -> list[str]:
    """Instructions of training scenes in both languages, enough to meet every word."""
    rng = np.random.default_rng([seed, 5])
    corpus: list[str] = []
    for row in rng.integers(len(table), size=count):
        instruction = altered(rng, sample_instruction(rng, table.scene(int(row))))
        corpus.extend(say(instruction, language, rng) for language in LANGUAGES)
    return corpus


@dataclass(frozen=True)
class Stage:
    """Whose checkpoints a stage starts from, which parts it leaves in its own, what it does."""

    needs: tuple[str, ...]
    trains: tuple[str, ...]
    run: Callable[[Course], Iterator[Report]]


STAGES: Final[dict[str, Stage]] = {
    "facts": Stage((), ("meanings", "scale"), Course.facts_stage),
    "refine": Stage(("facts",), ("meanings", "scale"), Course.refine_stage),
    "words": Stage(("refine",), ("text", "scale"), Course.words_stage),
    "looks": Stage((), ("visual", "map_heads"), Course.looks_stage),
    "sight": Stage(("refine", "looks"), ("visual", "map_heads"), Course.sight_stage),
    "both": Stage(("refine", "words", "sight"), ("visual", "text", "scale"), Course.both_stage),
}
"""The stages in the order in which a whole run takes them."""
