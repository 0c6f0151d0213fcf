"""What /diagnostics says about the memory."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.memory import IndexStats, Memory, MemoryStats
from vla_retrieval.ros.diagnostics import judge_memory, memory_status
from vla_retrieval.ros.disk import DiskWatch, Look
from vla_retrieval.types import Fingerprint, Similarity

MB = 1 << 20
GB = 1 << 30


class Disk(NamedTuple):
    """A file system, in bytes."""

    total: int
    free: int


def stats(error: str = "") -> MemoryStats:
    """Return those of an empty memory, with the index's last error."""
    index = IndexStats("exact", 0, 0, 0, (), "nothing", 0, error)
    fingerprint = Fingerprint("double", "sha256:0", "none", 16)
    return MemoryStats(
        0, 0, None, None, 0, 0, Similarity.COSINE, fingerprint, Path("/memory"), index
    )


@pytest.mark.parametrize(
    ("disk", "warned"),
    [
        (Disk(100 * GB, 50 * GB), False),
        (Disk(100 * GB, 5 * GB), False),
        (Disk(100 * GB, 5 * GB - 1), True),
        (Disk(GB, 200 * MB), False),
        (Disk(GB, 200 * MB - 1), True),
        (Disk(GB, 0), True),
    ],
)
def test_a_disk_with_less_than_five_percent_or_200_mb_free_is_reported(
    disk: Disk, warned: bool
) -> None:
    """The directory is named, and what to do."""
    warnings = judge_memory(stats(), disk)
    assert len(warnings) == warned
    assert all("/memory" in text and "max_memory_mb" in text for text in warnings)


def test_an_index_that_could_not_be_kept_in_order_is_reported_with_the_cause() -> None:
    """Beside the disk that may be the cause."""
    (warning,) = judge_memory(stats("cannot write: no space left."), Disk(GB, GB))
    assert "cannot write: no space left." in warning
    assert len(judge_memory(stats("cannot write."), Disk(GB, 0))) == 2


def look_at(memory: Memory, directory: Path) -> Look:
    """Return what a node would see of a memory."""
    watch = DiskWatch(directory, memory.stats, lambda: None, 60.0)
    watch.stop()
    return watch.latest


def test_a_memory_whose_directory_was_removed_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    """The node goes on to say so."""
    directory = tmp_path / "memory"
    with Memory.open(directory, DoubleEncoder().fingerprint) as memory:
        assert memory_status(look_at(memory, directory)).level == DiagnosticStatus.OK
        shutil.rmtree(directory)
        status = memory_status(look_at(memory, directory))
        assert status.level == DiagnosticStatus.ERROR
        assert str(directory) in status.message


def test_a_disk_that_does_not_answer_is_an_error_beside_what_was_seen_before() -> None:
    """It is named, and for how long; a disk that is only slow is not."""
    look = Look(Path("/memory"), stats(), Disk(GB, GB))
    assert memory_status(look, waiting_sec=0.5).level == DiagnosticStatus.OK
    status = memory_status(look, waiting_sec=17.0)
    assert status.level == DiagnosticStatus.ERROR
    assert "the disk of /memory has not answered for 17 s" in status.message
    assert {pair.key: pair.value for pair in status.values}["memory_size"] == "0"


def test_a_directory_that_cannot_be_written_is_reported_before_anybody_tries() -> None:
    """What is there is shown all the same."""
    status = memory_status(Look(Path("/memory"), stats(), Disk(GB, GB), writable=False))
    assert status.level == DiagnosticStatus.WARN
    assert "/memory cannot be written" in status.message


def test_evictions_are_shown_by_the_bound_that_was_passed() -> None:
    """By the names of the parameters."""
    counted = dataclasses.replace(stats(), evicted=5, evicted_over_entries=3, evicted_over_bytes=2)
    status = memory_status(Look(Path("/memory"), counted, Disk(GB, GB)))
    facts = {pair.key: pair.value for pair in status.values}
    assert facts["evicted"] == "5"
    assert facts["evicted_over_max_entries"] == "3"
    assert facts["evicted_over_max_memory_mb"] == "2"
