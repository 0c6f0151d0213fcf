"""What the figures were measured on, and what a process or a folder takes of it."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import mmap
import os
import platform
import sqlite3
import time
from pathlib import Path

_PACKAGES = (
    "numpy", "faiss-cpu", "apsw", "hnswlib", "usearch", "lancedb", "chromadb", "milvus-lite",
    "pymilvus", "qdrant-client",
)  # fmt: skip
_BLOCK = 8 << 20


def facts(work: Path) -> dict[str, object]:
    """Processor, cores, memory, file system and versions; nothing that names the machine."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _line("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "ram_gib": round(int(_line("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "file_system": _file_system(work),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "versions": versions,
    }


def anonymous_bytes() -> int:
    """RAM of this process and its children that no file backs.

    Freed memory is given back first: what malloc keeps for later is not the system's.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            total += int(_line(f"/proc/{pid}/smaps_rollup", "Anonymous").split()[0]) * 1024
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += [int(child) for child in children.read_text().split()]
        except FileNotFoundError:
            continue
    return total


def files_in(folder: Path) -> list[Path]:
    """All files below a folder; a file alone is itself."""
    return [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())


def disk_bytes(folder: Path) -> int:
    """What the files take on the disk, in blocks."""
    return sum(file.stat().st_blocks * 512 for file in files_in(folder))


def read_all(folder: Path) -> float:
    """Seconds to read all bytes of all files, one file after the other."""
    buffer = bytearray(_BLOCK)
    started = time.perf_counter()
    for file in files_in(folder):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - started


def evict(folder: Path) -> None:
    """Ask the kernel to drop the files from its page cache."""
    for file in files_in(folder):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)  # dirty pages are not dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def cached_share(folder: Path) -> float:
    """The share of the files' pages that is in the page cache, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    present = pages = 0
    for file in files_in(folder):
        size = file.stat().st_size
        if not size:
            continue
        with file.open("r+b") as stream, mmap.mmap(stream.fileno(), size) as view:
            count = -(-size // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * count)()
            anchor = ctypes.c_char.from_buffer(view)
            failed = libc.mincore(
                ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), states
            )
            del anchor  # or the map cannot be closed
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
        present += sum(state & 1 for state in bytes(states))
        pages += count
    return present / pages if pages else 1.0


def _line(file: str, key: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return "0 unknown"


def _file_system(folder: Path) -> str:
    """The type of the file system; on tmpfs an fsync costs nothing and proves nothing."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mounted_on, kind = line.split()[:3]
        if folder.resolve().is_relative_to(mounted_on) and len(mounted_on) >= len(best[0]):
            best = (mounted_on, kind)
    return best[1]
