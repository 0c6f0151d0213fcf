"""Real file systems of a test: small ones, and ones that nobody can write."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    """Mount something, or skip the test where that is not permitted."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount(8)")
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")


def unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)


@contextmanager
def disk(path: Path, size: int) -> Iterator[Path]:
    """Lend a directory that is a file system of so many bytes."""
    path.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield path
    finally:
        unmount(path)


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Let nobody write a directory, not even root."""
    mount("--bind", str(path), str(path))
    try:
        mount("-o", "remount,bind,ro", str(path))
        yield
    finally:
        unmount(path)


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Fill a file system to the last page."""
    filler = path / ".filler"  # the memory overlooks names with a dot
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                if file.write(bytes(size)) < size:
                    size //= 2
            except OSError:
                size //= 2
    try:
        yield
    finally:
        filler.unlink()
