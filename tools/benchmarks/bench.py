"""One benchmark at one size: its settings, its gallery and its queries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.benchmarks.data import Generator, Pairs, Recipe, stored_gallery
from tools.benchmarks.entries import Labels

K = 10
"""Entries asked for by every query."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long.

    Attributes:
        recipe: The gallery.
        work: The folder for everything that is written.
        index: Kind of the memory's index: auto, exact, pq, pq_sq8 or hash.
        index_bytes: RAM that the memory's index may take, or None for its own choice.
        queries: Most queries of a measurement.
        seconds: After which a measurement begins no new round.
        rounds: Opens of each state.
        budget_sec: For filling one of the other stores.
        peers: Names of the other stores.
        bare: Whether a bare FAISS index of the memory's kind is compared; it takes minutes to fit.
    """

    recipe: Recipe
    work: Path
    index: str = "auto"
    index_bytes: int | None = None
    queries: int = 200
    seconds: float = 60.0
    rounds: int = 5
    budget_sec: float = 300.0
    peers: tuple[str, ...] = ()
    bare: bool = True

    def to_json(self) -> str:
        """As a child process takes it."""
        return json.dumps({**asdict(self), "work": str(self.work)})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings that ``to_json`` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["recipe"] = Recipe(**values["recipe"])
        values["work"] = Path(values["work"])
        values["peers"] = tuple(values["peers"])
        return cls(**values)


class Bench:
    """Settings with what follows from them, made when it is first asked for.

    Args:
        settings: What is measured.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def size(self) -> int:
        """Entries in the gallery."""
        return self.settings.recipe.size

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.settings.recipe.dim

    @property
    def folder(self) -> Path:
        """Where this gallery and everything made of it is."""
        return self.settings.work / self.settings.recipe.folder_name

    @cached_property
    def gallery(self) -> Pairs:
        """The entries' vectors, as maps of files."""
        return stored_gallery(self.settings.recipe, self.settings.work)

    @cached_property
    def queries(self) -> Pairs:
        """Held-out pairs from the same clusters."""
        return Generator(self.settings.recipe).queries(self.settings.queries)

    @cached_property
    def labels(self) -> Labels:
        """What is stored beside the vectors."""
        return Labels(self.size, self.settings.recipe.seed)
