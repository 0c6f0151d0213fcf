"""What a node's diagnostics say that it has in use, as they come."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.node import Node

_NAMES: Final = ("process_allocated_bytes", "process_python_blocks")


class Diagnosed:
    """Notes once a second what the node has allocated, from its creation until it is closed.

    Resident memory holds what the allocator keeps for later, whose highest mark creeps up for
    hours; what is in use does not, so that a small leak shows within minutes.
    """

    def __init__(self, node: Node) -> None:
        """Listen from now on.

        Args:
            node: Somebody else's, who spins it.
        """
        self._rows: list[tuple[float, ...]] = []
        self._node = node
        self._subscription = node.create_subscription(
            DiagnosticArray, "/diagnostics", self._note, 10
        )

    def close(self) -> None:
        """Listen no longer."""
        self._node.destroy_subscription(self._subscription)

    def since(self, start_sec: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what was noted since then.

        Args:
            start_sec: On the monotonic clock.

        Returns:
            Seconds on that clock, shape ``(n,)``; allocated bytes and Python's blocks, shape
            ``(n, 2)``.
        """
        rows = np.array([row for row in list(self._rows) if row[0] >= start_sec], np.float64)
        rows = rows.reshape(-1, 3)
        return rows[:, 0], rows[:, 1:]

    def _note(self, message: DiagnosticArray) -> None:
        for status in message.status:
            facts = {pair.key: pair.value for pair in status.values}
            numbers = [facts.get(name, "") for name in _NAMES]
            if all(number.isdigit() for number in numbers):
                self._rows.append((time.monotonic(), *map(float, numbers)))
