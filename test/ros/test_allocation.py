"""The allocator keeps the blocks of large messages: seen in the pages that the kernel hands out."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="it belongs to the node")

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_blocks_are_used_again_instead_of_fetched_from_the_kernel() -> None:
    assert page_faults("raised") < 100
    assert page_faults("default") > 1000
