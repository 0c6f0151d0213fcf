"""A point in time after which an answer is of no use."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from vla_retrieval.errors import DeadlineExceededError


@dataclass(frozen=True)
class Deadline:
    """A point on the monotonic clock.

    Attributes:
        at_sec: Seconds on ``time.monotonic``; infinity is no deadline.
        timeout_sec: What the caller gave, for the error message.
    """

    at_sec: float = math.inf
    timeout_sec: float = math.inf

    @classmethod
    def after(cls, timeout_sec: float) -> Deadline:
        """Return the deadline ``timeout_sec`` seconds from now."""
        return cls(time.monotonic() + timeout_sec, timeout_sec)

    def check(self, stage: str) -> None:
        """Raise if it has passed.

        Args:
            stage: What would have come next, for the message.

        Raises:
            DeadlineExceededError: If the deadline has passed.
        """
        late = time.monotonic() - self.at_sec
        if late > 0:
            raise DeadlineExceededError(
                f"timeout_sec: no answer within {self.timeout_sec:g} s "
                f"({late:.3f} s over before {stage}). Allow more time, or ask less often."
            )
