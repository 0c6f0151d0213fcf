"""How far an evaluation is, and how long its stages take."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[str, int, int], None]
"""Told what is done now, how much of it is done, and how much there is."""


@dataclass
class StageSeconds:
    """Seconds of each call, by stage. Any thread may add."""

    calls: dict[str, array[float]] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        """Note one call."""
        self.calls.setdefault(stage, array("d")).append(seconds)
