"""One soak: starts a node, loads it, watches it, stops it, and looks at what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tools.soak.book import Book
from tools.soak.diagnosed import Diagnosed
from tools.soak.growth import ProcessMemory, Slope, percent_per_hour, quietest
from tools.soak.loads import Loads, Tally
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.ending import stop_process
from vla_retrieval.transport import large_image_environment

ROOT: Final = Path(__file__).parents[2]
_START_SEC: Final = 300.0
_ANSWER_SEC: Final = 60.0
_STOP_SEC: Final = 60.0
_CROWDS: Final = 3  # before the load: how much of a crowd waits together is chance
_ENOUGH: Final = 16  # samples, for a slope
_MB: Final = 1 << 20
# Seconds, shape (n,), and two quantities at them, shape (n, 2).
_Samples: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Settings:
    """What a soak is like.

    Attributes:
        work: Empty or new folder for the memory and the node's log.
        seconds: Load that is measured.
        warm_up_sec: Load before that, in which caches fill; pools fill before it, with crowds.
        entries: Bound of the memory; it is full before the warm-up, so that it does not grow.
        model: The node's.
        parameters: More of the node's parameters.
    """

    work: Path
    seconds: float = 900.0
    warm_up_sec: float = 180.0
    entries: int = 2000
    model: str = "double"
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How it went.

    Attributes:
        seconds: Measured load.
        counts: By what was done, while it was measured.
        latency_ms: By what was called: p50, p99 and the largest, in milliseconds.
        failures: Calls that failed, and everything else that went wrong, from the start on.
        acknowledged: Entries that the node acknowledged.
        forgotten: Of them, how many were forgotten on request.
        evicted: Of them, how many the node named as evicted.
        stored: Entries in the memory afterwards.
        lost: A line for each acknowledged entry that is not there, or altered.
        check: What ``memory check`` said, empty where nothing is wrong.
        exit_code: The node's.
        resident_mb: Resident memory at the start and at the end of the measured load: medians of
            its first and last tenth.
        growth: Of the resident memory; None with fewer than 16 samples.
        anonymous_growth: Of its anonymous part, without files and shared memory.
        memory: Rows of (seconds, resident bytes, anonymous bytes), one a second, of the measured
            load.
        allocated_growth: Of what the node says that it has allocated and not freed, at the
            quietest of each short stretch; None where it cannot tell, or with fewer than 16
            samples.
        blocks_growth: The same of Python's small objects.
        in_use: Rows of (seconds, allocated bytes, Python's blocks), one a second.
    """

    seconds: float
    counts: dict[str, int]
    latency_ms: dict[str, tuple[float, float, float]]
    failures: list[str]
    acknowledged: int
    forgotten: int
    evicted: int
    stored: int
    lost: list[str]
    check: str
    exit_code: int
    resident_mb: tuple[float, float]
    growth: Slope | None
    anonymous_growth: Slope | None
    memory: list[list[float]]
    allocated_growth: Slope | None
    blocks_growth: Slope | None
    in_use: list[list[float]]


def soak(settings: Settings) -> Result:
    """Run one, on the ROS domain of the environment.

    Raises:
        RuntimeError: If the node does not become active, or its memory is not filled in time.
    """
    settings.work.mkdir(parents=True, exist_ok=True)
    memory_dir = settings.work / "memory"
    tally, book = Tally(), Book(settings.entries)
    with _node(settings, memory_dir) as process:
        client = RetrievalClient(name="soak")
        try:
            if not client.wait_until_active(lambda: process.poll() is None, _START_SEC):
                raise RuntimeError(f"the node did not start: see {settings.work / 'node.log'}")
            held, used = _load(settings, client, process, tally, book)
        finally:
            client.close()
        if not stop_process(process, _STOP_SEC):
            tally.fail(f"the node did not end within {_STOP_SEC:g} s of SIGINT")
    stored, lost = book.compare(memory_dir)
    _look_into_log(settings.work / "node.log", tally)
    return _result(
        settings, tally, book, held, used, stored, lost, _check(memory_dir), process.returncode
    )


def _load(
    settings: Settings,
    client: RetrievalClient,
    process: subprocess.Popen[bytes],
    tally: Tally,
    book: Book,
) -> tuple[_Samples, _Samples]:
    """Load the node; return what it held and what it had in use while it was measured."""
    loads = Loads(client, tally, book)
    loads.fill(settings.entries, _START_SEC)
    for _ in range(_CROWDS):
        loads.crowd(lambda: _held(process), _ANSWER_SEC)
    loads.show_largest(_ANSWER_SEC)
    diagnosed = Diagnosed(client.node)
    with ProcessMemory(process.pid) as memory:
        loads.start()
        _last(process, settings.warm_up_sec, tally)
        tally.forget_times()
        warm_sec, warm = memory.samples[-1][0] if memory.samples else 0.0, time.monotonic()
        _last(process, settings.seconds, tally)
        held, used = memory.since(warm_sec), diagnosed.since(warm)
    counts = dict(tally.counts)
    loads.stop(_ANSWER_SEC)
    tally.counts.clear()
    tally.counts.update(counts)
    diagnosed.close()
    return held, used


@contextmanager
def _held(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hold a process back in the block."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _last(process: subprocess.Popen[bytes], seconds: float, tally: Tally) -> None:
    """Let the load last so long, or until the node has died."""
    begun = time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        tally.fail(f"the node died after {time.monotonic() - begun:.0f} s of {seconds:g} s of load")


def _result(
    settings: Settings, tally: Tally, book: Book, held: _Samples, used: _Samples,
    stored: int, lost: list[str], check: str, exit_code: int,
) -> Result:  # fmt: skip
    times, sizes = held
    tenth = max(1, len(times) // 10)
    ends = (sizes[:tenth, 0], sizes[-tenth:, 0]) if len(times) else ([np.nan], [np.nan])
    resident, anonymous = (_growth(times, sizes[:, column]) for column in range(2))
    allocated, blocks = (_growth(*quietest(used[0], used[1][:, column])) for column in range(2))
    return Result(
        seconds=settings.seconds,
        counts=dict(tally.counts),
        latency_ms={
            what: tuple(float(q) for q in np.quantile(values, [0.5, 0.99, 1.0]) * 1e3)  # type: ignore[misc]
            for what, values in sorted(tally.times_sec.items())
        },
        failures=list(tally.failures),
        acknowledged=book.acknowledged,
        forgotten=book.forgotten,
        evicted=book.evicted,
        stored=stored,
        lost=lost,
        check=check,
        exit_code=exit_code,
        resident_mb=(float(np.median(ends[0])) / _MB, float(np.median(ends[1])) / _MB),
        growth=resident,
        anonymous_growth=anonymous,
        memory=np.column_stack(held).tolist(),
        allocated_growth=allocated,
        blocks_growth=blocks,
        in_use=np.column_stack(used).tolist(),
    )


def _growth(times: NDArray[np.float64], values: NDArray[np.float64]) -> Slope | None:
    return percent_per_hour(times, values) if len(times) >= _ENOUGH else None


@contextmanager
def _node(settings: Settings, memory_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    parameters: dict[str, Any] = {
        "model": settings.model, "memory_dir": memory_dir.resolve(), "use_sim_time": "true",
        "max_entries": settings.entries, "eviction": "oldest", "remember_mode": "interval",
        "device": "cpu", "engine": "torch", **settings.parameters,
    }  # fmt: skip
    command = [sys.executable, "-m", "vla_retrieval.ros.main", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    with (settings.work / "node.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT,
            env={**os.environ, **large_image_environment(str(ROOT))},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _look_into_log(log: Path, tally: Tally) -> None:
    for line in log.read_text(errors="replace").splitlines():
        if "Traceback" in line or "[ERROR]" in line or "[FATAL]" in line:
            tally.fail(f"the node's log: {line}")


def _check(memory_dir: Path) -> str:
    """Return what ``memory check`` has to say against it."""
    command = [sys.executable, "-m", "vla_retrieval.cli.memory", "check", str(memory_dir)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"
