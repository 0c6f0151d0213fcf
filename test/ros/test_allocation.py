"""The allocator keeps the blocks of large messages; what is in use is told from what it keeps."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="it belongs to the node")

from vla_retrieval.ros import allocation
from vla_retrieval.ros.allocation import footprint

ROOT = Path(__file__).parents[2]
# Three VGA images alive at a time, freed together, as a callback and a service call leave them.
PROGRAM = """
import resource, sys
from vla_retrieval.ros.allocation import keep_large_blocks
if sys.argv[1] == "raised":
    assert keep_large_blocks()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def frame():
    held = [b"x" * 921600 for _ in range(3)]
for _ in range(5):
    frame()
before = faults()
for _ in range(20):
    frame()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


on_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have neither mallopt nor mallinfo2"
)


@on_glibc
def test_large_blocks_are_used_again_instead_of_fetched_from_the_kernel() -> None:
    assert page_faults("raised") < 100
    assert page_faults("default") > 1000


# Half a megabyte a block, so that they come from the heap: it stays resident once they are freed.
HELD_AND_FREED = """
from vla_retrieval.ros.allocation import footprint, keep_large_blocks
keep_large_blocks()
before = footprint()
held = [b"x" * (1 << 19) for _ in range(128)]
during = footprint()
del held
after = footprint()
print(during.allocated_bytes - before.allocated_bytes)
print(after.allocated_bytes - before.allocated_bytes)
print(after.resident_bytes - before.resident_bytes)
"""


@on_glibc
def test_what_is_freed_is_no_longer_in_use_though_the_allocator_keeps_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD_AND_FREED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    held, left, resident = map(int, done.stdout.split())
    assert 64 << 20 <= held < 66 << 20
    assert left < 1 << 20
    assert resident > 32 << 20


def test_small_objects_are_counted() -> None:
    before = footprint().python_blocks
    held = [(number,) for number in range(100_000)]
    assert footprint().python_blocks - before >= len(held)


def test_a_c_library_that_cannot_tell_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    assert footprint().allocated_bytes is None
    assert footprint().resident_bytes > 0
