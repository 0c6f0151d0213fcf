"""The soak's own instruments: a leak is seen, noise is not, and a lost entry is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("rclpy", reason="needs ROS 2")

from tools.soak.__main__ import report
from tools.soak.book import Book, Page
from tools.soak.growth import ProcessMemory, percent_per_hour, quietest
from tools.soak.loads import Loads, Tally
from tools.soak.soak import Result
from vla_retrieval.encoders import EncoderSettings, load_encoder
from vla_retrieval.memory import Memory
from vla_retrieval.ros.ending import stop_process
from vla_retrieval.types import NewEntry

SECONDS = np.arange(900.0)
MB = 1 << 20


def resident(percent: float, seed: int) -> np.ndarray:
    """Return what 200 MB look like over 15 minutes: growth, rebuilds of an index, and noise."""
    random = np.random.default_rng(seed)
    rebuilds = 4 * MB * (SECONDS % 45 > 40)
    wander = np.cumsum(random.normal(0, 2000, len(SECONDS)))
    return 200 * MB * (1 + percent / 100 * SECONDS / 3600) + rebuilds + wander


@pytest.mark.parametrize("percent", [0.0, 20.0, -10.0])
def test_the_slope_is_found_through_rebuilds_and_noise(percent: float) -> None:
    found = percent_per_hour(SECONDS, resident(percent, 1))
    assert found.low <= found.estimate <= found.high
    assert found.estimate == pytest.approx(percent, abs=1.0)


def test_a_leak_of_a_hundred_bytes_a_frame_is_told_from_noise() -> None:
    """30 Hz over 200 MB: 5 % an hour."""
    leak = 100 * 30 * 3600 / (200 * MB) * 100
    for seed in range(5):
        assert percent_per_hour(SECONDS, resident(leak, seed)).low > 1.0
        assert percent_per_hour(SECONDS, resident(0.0, seed)).low < 1.0


def test_pictures_that_are_alive_now_and_then_are_no_growth_and_a_leak_beside_them_is() -> None:
    """55 MB in use, ever more often with one to three pictures; 100 bytes a frame leaked or not."""
    random = np.random.default_rng(3)
    busy = np.linspace(0.2, 0.8, len(SECONDS))
    alive = 0.92 * MB * random.integers(1, 4, len(SECONDS)) * (random.random(len(SECONDS)) < busy)
    leak = 100 * 30 * SECONDS
    calm, leaking = (percent_per_hour(*quietest(SECONDS, 55 * MB + alive + kept))
                     for kept in (0.0, leak))  # fmt: skip
    assert percent_per_hour(SECONDS, 55 * MB + alive).estimate > 5.0
    assert calm.high < 1.0
    assert leaking.estimate == pytest.approx(100 * 30 * 3600 / (55 * MB) * 100, rel=0.15)


def test_the_quietest_of_few_samples_are_those() -> None:
    times, values = np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.0, 2.0])
    assert [part.tolist() for part in quietest(times, values)] == [[1, 2, 4], [3, 1, 2]]


_TAKES_64_MB = """
import sys
sys.stdin.readline()
kept = b"x" * (64 << 20)
print("taken", flush=True)
sys.stdin.readline()
"""


def test_a_process_that_takes_memory_is_seen_to() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKES_64_MB], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with process, ProcessMemory(process.pid, period_sec=0.01) as memory:
        assert process.stdin is not None
        assert process.stdout is not None
        while not memory.samples:
            pass
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "taken\n"
        before = len(memory.samples)
        while len(memory.samples) < before + 3:
            pass
    times, sizes = memory.since(0.0)
    assert (np.diff(times) > 0).all()
    assert sizes[before, 0] - sizes[0, 0] >= 64 * MB
    assert (sizes[:, 1] <= sizes[:, 0]).all()


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Book]:
    """Return a memory of nine entries, and a book that agrees with it."""
    encoder, book = load_encoder(EncoderSettings(model="double")), Book(10)
    with Memory.open(tmp_path / "memory", encoder.fingerprint) as memory:
        for number in range(1, 11):
            entry = NewEntry(instruction=f"task {number}", stamp_ns=number)
            row = encoder.encode_instructions([entry.instruction])
            book.note(memory.add([entry], row, row)[0], Page(entry.instruction, number), [])
        memory.remove([1])
    return tmp_path / "memory", book


def test_what_is_read_again_is_there_though_nobody_named_what_went_before_it() -> None:
    """A long soak would ask for what went long ago, and call that a failure."""
    book, random = Book(100), np.random.default_rng(1)
    for number in range(1, 1001):
        book.note(number, Page(f"task {number}", number), [])
    chosen = [book.any_page(random) for _ in range(200)]
    ids = {page[0] for page in chosen if page is not None}
    assert ids <= set(range(951, 981))
    assert len(ids) > 20


def test_an_entry_that_went_as_the_oldest_is_no_loss(written: tuple[Path, Book]) -> None:
    folder, book = written
    assert book.compare(folder) == (9, [])


def test_an_entry_that_is_gone_without_a_reason_or_altered_is_named(
    written: tuple[Path, Book],
) -> None:
    folder, book = written
    book.note(99, Page("task 99", 99), [])
    book.note(5, Page("another", 5), [])
    stored, wrong = book.compare(folder)
    assert stored == 9
    assert wrong == ["entry 5 is task 5, not another", "entry 99 (task 99) is lost"]


def test_what_was_forgotten_or_named_as_evicted_is_not_missed(
    written: tuple[Path, Book],
) -> None:
    folder, book = written
    book.note(50, Page("task 50", 50), [])
    book.note(51, Page("task 51", 51), [50])
    assert set(book.take(np.random.default_rng(0), 100)) >= {51}
    assert book.evicted == 1
    assert book.compare(folder) == (9, [])


def test_a_memory_that_is_not_filled_in_time_is_no_soak() -> None:
    """What it takes while it fills would count as a leak."""
    with pytest.raises(RuntimeError, match="0 of 100 entries were remembered within 0 s"):
        Loads(MagicMock(), Tally(), Book(100)).fill(100, 0.0)


def test_an_entry_that_was_evicted_before_it_was_acknowledged_is_not_missed(
    written: tuple[Path, Book],
) -> None:
    folder, book = written
    book.note(51, Page("task 51", 51), [50])
    book.note(50, Page("task 50", 50), [51])
    assert book.evicted == 2
    assert book.compare(folder) == (9, [])


_HEARS_NO_CTRL_C = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
_ENDS = """
import time
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize(("program", "in_time"), [(_HEARS_NO_CTRL_C, False), (_ENDS, True)])
def test_a_node_that_does_not_end_is_killed_and_the_figures_are_kept(
    program: str, in_time: bool
) -> None:
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert stop_process(process, 60.0 if in_time else 0.01) is in_time
        assert process.returncode == (0 if in_time else -9)


def test_a_node_that_ended_badly_is_named_where_nothing_else_failed() -> None:
    result = Result(
        seconds=1.0, counts={}, latency_ms={}, failures=[], acknowledged=0, forgotten=0, evicted=0,
        stored=0, lost=[], check="", exit_code=-11, resident_mb=(1.0, 1.0), growth=None,
        anonymous_growth=None, memory=[], allocated_growth=None, blocks_growth=None, in_use=[],
    )  # fmt: skip
    console = Console(record=True, width=100)
    report(result, console)
    assert "exit code of the node: -11" in console.export_text()
