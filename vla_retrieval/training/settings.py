"""What training is asked to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.heads import METHODS
from vla_retrieval.heads.hashing import check_bits

_LAST_SEED = 2**63 - 1  # of torch's generators

LEARNING_RATES = {"joint": 2e-4, "metric": 1e-3, "hash": 3e-4}
"""Method to the learning rate that validated best on rendered scenes."""


@dataclass(frozen=True)
class TrainingSettings:
    """What training is asked to do.

    Attributes:
        method: ``joint``, ``metric`` or ``hash``.
        bits: Length of a code, a multiple of 8 from 64 to 512; without meaning for the others.
        seed: Of the split, the start and the batches. From 0 to 2^63 - 1.
        epochs: At most, from 1 on; training stops earlier when validation gets no better.
        patience: Epochs without a better validation after which it stops, from 1 on.
        batch: Pairs at a time, from 8 on. More of them are more to be told apart from.
        learning_rate: Of AdamW, above 0 and at most 1; None: that of the method
            (``LEARNING_RATES``).
        weight_decay: Of AdamW, from 0 on, towards the start: the identity, or the closed-form
            solution that a method begins with.
        temperature: Of the contrastive loss, above 0 and at most 1; without meaning but for
            ``joint``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InvalidInputError: If a value is out of its range.
    """

    method: str
    bits: int = 256
    seed: int = 0
    epochs: int = 60
    patience: int = 8
    batch: int = 512
    learning_rate: float | None = None
    weight_decay: float = 0.05
    temperature: float = 0.07
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check each field against its range."""
        if self.method not in METHODS:
            raise InvalidInputError("method", f"one of {', '.join(METHODS)}", repr(self.method))
        check_bits(self.bits)
        for name, least in (("seed", 0), ("epochs", 1), ("patience", 1), ("batch", 8)):
            if getattr(self, name) < least:
                got = str(getattr(self, name))
                raise InvalidInputError(name, f"a whole number from {least} on", got)
        if self.seed > _LAST_SEED:
            raise InvalidInputError("seed", "a whole number up to 2^63 - 1", str(self.seed))
        for name, value in (("learning_rate", self.rate), ("temperature", self.temperature)):
            if not 0 < value <= 1:
                raise InvalidInputError(name, "a number above 0 and at most 1", str(value))
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InvalidInputError("weight_decay", "a number from 0 on", str(self.weight_decay))

    @property
    def rate(self) -> float:
        """The learning rate that counts."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def shown(self) -> dict[str, Any]:
        """Return the settings that count, for the record."""
        found = asdict(self) | {"learning_rate": self.rate}
        if self.method != "hash":
            del found["bits"]
        if self.method != "joint":
            del found["temperature"]
        return found
