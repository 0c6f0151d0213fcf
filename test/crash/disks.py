"""Real file systems of a test: small ones, and ones that nobody can write."""

from __future__ import annotations

import os
import signal
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


@contextmanager
def ext4(path: Path, size: int) -> Iterator[Path]:
    """Lend a directory that is an ext4 file system of so many bytes, with journal, in a file."""
    image = path.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(size)
    try:
        made = subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mkfs.ext4(8)")
    assert made.returncode == 0, made.stderr
    path.mkdir()
    mount("-o", "loop", str(image), str(path))
    try:
        yield path
    finally:
        unmount(path)


def check_and_mount_again(path: Path) -> None:
    """Unmount one that `ext4` lent, repair it, and mount it again, as one does after an error."""
    unmount(path)
    image = path.with_suffix(".img")
    # Exit code 1: errors were found and corrected.
    assert subprocess.run(["e2fsck", "-p", str(image)], capture_output=True).returncode <= 1
    mount("-o", "loop", str(image), str(path))


@contextmanager
def frozen(path: Path, at_most_sec: float = 60.0) -> Iterator[None]:
    """Let a file system answer nobody who changes anything: they wait in the kernel."""
    done = subprocess.run(["fsfreeze", "--freeze", str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"freezing is not permitted: {done.stderr.strip()}")
    # Should this process be killed meanwhile, nobody could end those that wait.
    thaw = ["fsfreeze", "--unfreeze", str(path)]
    guard = subprocess.Popen(
        ["sh", "-c", f"sleep {at_most_sec:g}; {' '.join(thaw)}"], start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()
        subprocess.run(thaw, check=True)


@contextmanager
def immutable(directory: Path) -> Iterator[None]:
    """Take the right to write a directory and its files from everybody, open files included."""
    paths = [str(path) for path in (*directory.iterdir(), directory)]
    done = subprocess.run(["chattr", "+i", *paths], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"chattr +i is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *reversed(paths)], check=True)


def remount_after_an_error(path: Path) -> None:
    """Make a file system read-only under its open files, as ext4 does itself after an error."""
    mount("-o", "remount,abort", str(path))
