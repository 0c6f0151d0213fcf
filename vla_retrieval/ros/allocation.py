"""Makes the C library keep the memory of large messages instead of giving it back each time.

An image message is allocated, filled and freed for every frame. glibc takes blocks of that size
from the kernel and returns them at once, so each frame pays for zeroed pages: deserialising a VGA
image took 75 times a memcpy of it, and 5 times with the thresholds raised.
"""

from __future__ import annotations

import ctypes

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
