"""Whether SQLite's log can be read to its end.

SQLite reads a log up to the first frame that differs from its checksum, without a word: a commit
that was cut off by a loss of power ends there. A flipped bit in the middle ends it there as well,
and every later commit is gone. Only the second has commits behind it, with others after them: each
is on the disk before the next one begins (``synchronous`` FULL).

The format is described at https://sqlite.org/fileformat2.html#the_write_ahead_log.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.memory.names import DATABASE_NAME, LOG_NAME
from vla_retrieval.memory.schema import damaged

_log = logging.getLogger(__name__)

_MAGIC = {0x377F0682: "<u4", 0x377F0683: ">u4"}  # and the order of bytes in its checksums
_HEADER = struct.Struct(">8I")  # magic, version, page size, number, two salts, two checksums
_FRAME_BYTES = 24  # page, pages after a commit or 0, two salts, two checksums; then the page
_COVERED = 8  # bytes of them that the checksum covers
_FRAMES_AT_ONCE = 256
_PAGE_BYTES = 4096  # of our databases
_LEAST_ROW = 100  # bytes of an entry

_Words = NDArray[np.uint32]
_NOTHING: _Words = np.zeros(2, np.uint32)


class LostCommits(NamedTuple):
    """What of a log SQLite does not read.

    Attributes:
        commits: Whole ones that it had said to be on the disk, at least.
        most_entries: They cannot have added more.
    """

    commits: int
    most_entries: int

    def __str__(self) -> str:
        """Return what to tell people."""
        return (
            f"its log is damaged: {self.commits} commits in it, the last ones before the memory was"
            " cut off, cannot be read any more"
        )


def check_log(directory: Path, *, durable: bool) -> None:
    """Check that what the log of a memory's directory holds can be read.

    Args:
        directory: Which nobody writes meanwhile.
        durable: Whether each commit was on the disk before the next one. Where not, a loss of
            power leaves holes in the log that are no damage, and it is only told.

    Raises:
        MemoryFormatError: If commits are lost.
        StorageError: If the log cannot be read.
    """
    lost = lost_commits(directory)
    if lost is None:
        return
    if durable:
        raise damaged(directory / DATABASE_NAME, str(lost))
    _log.warning("%s: %s", directory, lost)


def lost_commits(directory: Path) -> LostCommits | None:
    """Return what cannot be read of the log in a memory's directory, or None where all can.

    Nobody may write meanwhile. It takes some milliseconds a megabyte.

    Raises:
        StorageError: If the log cannot be read.
    """
    path = directory / LOG_NAME
    with storage_errors("read", path):
        content = path.read_bytes() if path.exists() else b""
    if len(content) < _HEADER.size:
        return None
    magic, _, page_size, _, *salts, _, _ = _HEADER.unpack_from(content)
    order = _MAGIC.get(magic, "")
    sound = order and _sums(_NOTHING, _words(content, order), _powers(3)).tolist() == list(
        _HEADER.unpack_from(content)[-2:]
    )
    if not sound:  # SQLite takes no frame at all; what they are is what most of them say
        page_size = _PAGE_BYTES
    size = _FRAME_BYTES + page_size
    count = (len(content) - _HEADER.size) // size
    frames = np.frombuffer(content, np.uint8, count * size, _HEADER.size).reshape(count, size)
    heads = np.ascontiguousarray(frames[:, :_FRAME_BYTES]).view(">u4").astype(np.uint32)
    if not sound:
        return _behind(heads, _commonest(heads[:, 2:4]), 0, page_size)
    before = np.array(_HEADER.unpack_from(content)[-2:], np.uint32)
    ours = (heads[:, 2:4] == np.array(salts, np.uint32)).all(axis=1)
    first_bad = _first_bad(frames, heads, ours, before, order)
    return _behind(heads, np.array(salts, np.uint32), first_bad, page_size)


def _behind(
    heads: NDArray[np.uint32], salts: _Words, first_bad: int, page_size: int
) -> LostCommits | None:
    """Return the commits from a frame on that had another frame behind them."""
    ours = np.flatnonzero((heads[:, 2:4] == salts).all(axis=1))
    ours = ours[ours >= first_bad]
    commits = ours[heads[ours, 1] != 0]
    if not len(commits) or ours[-1] <= commits[0]:
        return None
    surely = int((commits < ours[-1]).sum())
    return LostCommits(surely, len(ours) * (page_size // _LEAST_ROW))


def _commonest(salts: _Words) -> _Words:
    pairs, counts = np.unique(salts, axis=0, return_counts=True)
    found: _Words = pairs[np.argmax(counts)] if len(pairs) else _NOTHING
    return found


def _first_bad(
    frames: NDArray[np.uint8], heads: _Words, ours: NDArray[np.bool_], before: _Words, order: str
) -> int:
    """Return the first frame that SQLite does not take, or how many there are."""
    powers = _powers((frames.shape[1] - _FRAME_BYTES + _COVERED) // 8)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        some = frames[start : start + _FRAMES_AT_ONCE]
        covered = np.concatenate((some[:, :_COVERED], some[:, _FRAME_BYTES:]), axis=1)
        for number, added in enumerate(_added(covered.view(order), powers), start):
            before = powers[-1] @ before + added
            if not ours[number] or not heads[number, 0] or (before != heads[number, 4:6]).any():
                return number
    return len(frames)


def _words(content: bytes, order: str) -> _Words:
    """Return what the checksum of the header covers."""
    return np.frombuffer(content, order, 6)


# The checksum of words x, two by two, is s0 += x0 + s1, s1 += x1 + s0: linear, with
# M = [[1, 1], [1, 2]] from one step to the next, all modulo 2^32, which uint32 is.


@cache
def _powers(steps: int) -> _Words:
    """Return the powers of M from 0 to ``steps``, shape ``(steps + 1, 2, 2)``."""
    matrix = np.array([[1, 1], [1, 2]], np.uint32)
    found = [np.eye(2, dtype=np.uint32)]
    for _ in range(steps):
        found.append(found[-1] @ matrix)
    return np.stack(found)


def _added(words: _Words, powers: _Words) -> Iterator[_Words]:
    """Yield what each row of words, shape ``(n, 2 * steps)``, adds to a checksum."""
    first = words[:, 0::2].astype(np.uint32)
    both = first + words[:, 1::2].astype(np.uint32)
    steps = powers[-2::-1]  # what comes first goes through the most steps
    parts = [
        (first * steps[:, i, 0]).sum(axis=1, dtype=np.uint32)
        + (both * steps[:, i, 1]).sum(axis=1, dtype=np.uint32)
        for i in range(2)
    ]
    yield from np.stack(parts, axis=1)


def _sums(before: _Words, words: _Words, powers: _Words) -> _Words:
    """Return the checksum of words after one before them."""
    (added,) = _added(words[np.newaxis], powers)
    found: _Words = powers[-1] @ before + added
    return found
