"""A disk that is slower to say that what was written is safe, than the one that is there.

What a commit costs is the disk's business: SSDs that ride out a loss of power say so in some tens
of microseconds, consumers' ones in one to five milliseconds, memory cards in tens.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

_SOURCE = Path(__file__).with_name("slow_sync.c")
_WAIT = "SLOW_SYNC_US"
_SYNCS, _PAGE = 50, 4096


def added_ms() -> float:
    """Milliseconds by which a sync is longer in this process."""
    return int(os.environ.get(_WAIT, "0")) / 1e3


def restart(sync_ms: float, work: Path) -> NoReturn:
    """Begin this process anew, with every fsync and fdatasync so much longer; its children's, too.

    Args:
        sync_ms: Milliseconds above 0.
        work: Where what does that is compiled to.

    Raises:
        subprocess.CalledProcessError: If the compiler refuses.
        FileNotFoundError: If there is no ``cc``.
    """
    library = work / "slow_sync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, _SOURCE], check=True)
    preloaded = " ".join(filter(None, (str(library), os.environ.get("LD_PRELOAD", ""))))
    wait = str(round(sync_ms * 1e3))
    os.execve(
        sys.executable, [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, "LD_PRELOAD": preloaded, _WAIT: wait},
    )  # fmt: skip


def sync_ms(folder: Path) -> float:
    """Milliseconds that a page takes to be safe in a file that has its size already: the median."""
    file = folder / "sync-probe"
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, bytes(_PAGE), 0)
        os.fsync(handle)
        seconds = []
        for turn in range(_SYNCS):
            os.pwrite(handle, bytes([turn]) * _PAGE, 0)
            begun = time.perf_counter()
            os.fdatasync(handle)
            seconds.append(time.perf_counter() - begun)
        return statistics.median(seconds) * 1e3
    finally:
        os.close(handle)
        file.unlink()
