"""Makes the C library keep the memory of large messages, and says what the process takes.

An image message is allocated, filled and freed for every frame. glibc takes blocks of that size
from the kernel and returns them at once, so each frame pays for zeroed pages: deserialising a VGA
image took 75 times a memcpy of it, and 5 times with the thresholds raised.

Kept memory is resident though nothing lives in it, and its highest mark creeps up for hours as rare
coincidences come by. So what is in use is counted apart: only that tells a leak.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import ClassVar, NamedTuple

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
_MB = 1 << 20

THRESHOLDS = {
    _M_MMAP_THRESHOLD: 32 * _MB,  # the most that glibc accepts; a 4K image has 24 MB
    _M_TRIM_THRESHOLD: 128 * _MB,  # what may lie idle before any of it goes back
    _M_TOP_PAD: 16 * _MB,  # what is asked for beyond the need, so that asking is rare
}
"""glibc's ``mallopt`` parameters and their values, in bytes."""


def keep_large_blocks() -> bool:
    """Raise the allocator's thresholds for this process.

    Returns:
        Whether that worked: other C libraries than glibc have no such thresholds, and nothing
        changes there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    done = [mallopt(name, value) == 1 for name, value in THRESHOLDS.items()]
    return all(done)


class Footprint(NamedTuple):
    """What this process takes of the machine's memory.

    Attributes:
        resident_bytes: Of its pages that are in RAM, what the allocator keeps for later included.
        allocated_bytes: What was asked of the C library's heap and not given back, by Python and
            by libraries alike; None where that cannot be told. Without Python's own small objects,
            and without blocks that have a mapping of their own (with ``keep_large_blocks``, those
            of 32 MB and more): they are address space until they are filled, and an index takes
            them ahead.
        python_blocks: Small objects that Python holds (``sys.getallocatedblocks``).
    """

    resident_bytes: int
    allocated_bytes: int | None
    python_blocks: int


def footprint() -> Footprint:
    """Return what this process takes now."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    return Footprint(
        pages * os.sysconf("SC_PAGE_SIZE"), _allocated_bytes(), sys.getallocatedblocks()
    )


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _allocated_bytes() -> int | None:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    mallinfo2.restype = _MallInfo
    return int(mallinfo2().uordblks)
