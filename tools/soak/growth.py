"""How much memory a process takes, and whether that grows.

The slope is Theil and Sen's (the median of the slopes between all pairs of points): one rebuild
of an index, or one page that the system took back, does not move it. Its interval comes from
resampling blocks of residuals, because neighbouring samples are alike (Kunsch, The jackknife and
the bootstrap for general stationary observations, 1989).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

_POINTS, _STRETCHES = 120, 60
_BLOCKS = 8
_RESAMPLES = 400
_SEC_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Slope:
    """Growth of a quantity, in percent of its median per hour.

    Attributes:
        estimate: Theil and Sen's.
        low: 5th percentile of it, over resampled residuals.
        high: 95th percentile.
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as text."""
        return f"{self.estimate:+.2f} [{self.low:+.2f}, {self.high:+.2f}] %/h"


def percent_per_hour(times_sec: NDArray[np.float64], values: NDArray[np.float64]) -> Slope:
    """Return how fast values grow.

    Args:
        times_sec: Float64, shape ``(n,)``, ascending, n at least 16.
        values: Float64, shape ``(n,)``, with a median above 0.
    """
    # Medians of short stretches: quick enough for all pairs, and single outliers are gone.
    stretches = np.array_split(np.arange(len(times_sec)), min(_POINTS, len(times_sec)))
    times = np.array([np.median(times_sec[stretch]) for stretch in stretches])
    middle = np.array([np.median(values[stretch]) for stretch in stretches])
    scale = 100.0 * _SEC_PER_HOUR / float(np.median(values))
    slope = _theil_sen(times, middle)
    residuals = middle - slope * times
    random = np.random.default_rng(0)
    length = max(1, len(times) // _BLOCKS)
    found = []
    for _ in range(_RESAMPLES):
        starts = random.integers(0, len(times) - length + 1, -(-len(times) // length))
        rows = (starts[:, None] + np.arange(length)).ravel()[: len(times)]
        found.append(_theil_sen(times, slope * times + residuals[rows]))
    low, high = np.quantile(found, [0.05, 0.95])
    return Slope(slope * scale, float(low) * scale, float(high) * scale)


def quietest(
    times_sec: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least of each short stretch: what is left when the fewest messages are alive.

    A picture more that happens to be worked on, or waits, is no growth; it is a megabyte, as much
    as a small leak is in a quarter of an hour.

    Args:
        times_sec: Float64, shape ``(n,)``, ascending.
        values: Float64, shape ``(n,)``.

    Returns:
        The times and the values of the least ones, shape ``(stretches,)`` each.
    """
    stretches = np.array_split(np.arange(len(times_sec)), min(_STRETCHES, len(times_sec)))
    least = np.array([stretch[np.argmin(values[stretch])] for stretch in stretches], np.intp)
    return times_sec[least], values[least]


def _theil_sen(times: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    first, second = np.triu_indices(len(times), 1)
    return float(np.median((values[second] - values[first]) / (times[second] - times[first])))


class ProcessMemory:
    """Notes every second what a process holds, until the ``with`` block ends.

    Attributes:
        samples: Rows of (seconds since the start, resident bytes, anonymous bytes of them).
    """

    def __init__(self, pid: int, period_sec: float = 1.0) -> None:
        """Begin with the block.

        Args:
            pid: Of the process.
            period_sec: Between two samples.
        """
        self.samples: list[tuple[float, int, int]] = []
        self._status = Path("/proc") / str(pid) / "status"
        self._period_sec = period_sec
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._note, name="memory", daemon=True)

    def __enter__(self) -> ProcessMemory:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End."""
        self._end.set()
        self._thread.join()

    def since(self, start_sec: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return times, shape ``(n,)``, and resident and anonymous bytes, shape ``(n, 2)``."""
        rows = np.array([row for row in self.samples if row[0] >= start_sec], np.float64)
        rows = rows.reshape(-1, 3)
        return rows[:, 0], rows[:, 1:]

    def _note(self) -> None:
        begun = time.monotonic()
        while not self._end.wait(self._period_sec):
            try:
                lines = self._status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return  # the process has ended
            sizes = {line.partition(":")[0]: line.split() for line in lines}
            if "VmRSS" not in sizes:
                return  # ended, and not waited for yet
            resident, anonymous = (int(sizes[name][1]) << 10 for name in ("VmRSS", "RssAnon"))
            self.samples.append((time.monotonic() - begun, resident, anonymous))
