"""A node under the load of a working day: nothing fails, nothing is lost, nothing grows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from tools.soak.__main__ import report
from tools.soak.soak import Result, Settings, soak

_SECONDS = float(os.environ.get("VLA_SOAK_SEC", "900"))
_WARM_UP_SEC = min(600.0, _SECONDS)
# In percent per hour, of what is in use. Caches fill for a while, which a short soak cannot tell
# from a leak. Over an hour this is 1.25; 100 bytes a frame would be 8 of the double's 135 MB.
_MOST_GROWTH = max(1.0, 5.0 * 900.0 / _SECONDS)
# Of resident memory: where a busy machine lets more come together than before, the allocator's
# highest mark goes up in steps of some MB, hours after the start too. One block of 32 MB that is
# not given back is more. Only over an hour the slope tells something else from such a step.
_MOST_STEPS_MB = 24.0
_LONG_SEC = 3600.0


def check(result: Result) -> None:
    """Compare with what has to be so after any soak."""
    assert not result.failures, result.failures[:10]
    assert not result.lost, result.lost[:10]
    assert not result.check
    assert result.exit_code == 0
    assert result.acknowledged > result.forgotten > 0
    assert result.stored > 0
    done = {"frames answered", "entries remembered", "parameters set", "parameters refused"}
    assert all(result.counts[what] for what in done), result.counts
    called = {"retrieve", "remember", "forget", "get_entry", "get_stats"}
    assert called <= set(result.latency_ms)
    assert result.in_use


@pytest.mark.usefixtures("domain")
def test_a_short_soak_fails_in_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """Every kind of load in a few seconds."""
    check(soak(Settings(tmp_path, seconds=14.0, warm_up_sec=0.0, entries=100)))


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.usefixtures("domain")
def test_a_long_soak_does_not_grow_either(tmp_path: Path) -> None:
    """VLA_SOAK_SEC says how long."""
    result = soak(Settings(tmp_path, seconds=_SECONDS, warm_up_sec=_WARM_UP_SEC))
    check(result)
    report(result, Console())
    for growth in (result.allocated_growth, result.blocks_growth):
        assert growth is not None
        assert growth.low < _MOST_GROWTH, str(growth)
    first_mb, last_mb = result.resident_mb
    assert last_mb < first_mb + _MOST_STEPS_MB
    if result.seconds >= _LONG_SEC:
        assert result.growth is not None
        assert result.growth.low < _MOST_GROWTH, str(result.growth)
