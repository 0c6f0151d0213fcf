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

_LITTLE = 0x377F0682
_MAGIC = {_LITTLE: "<u4", 0x377F0683: ">u4"}  # and the order of bytes in its checksums
_VERSION = 3007000
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
    log = _read(directory / LOG_NAME)
    return None if log is None else log.lost


def mended(directory: Path) -> bytes | None:
    """Return the log with checksums that hold, up to the last commit that is in it.

    What a flipped bit did to a page is in it still, and found where pages are read.

    Returns:
        None where there is no log, or none that anything of is lost.

    Raises:
        StorageError: If the log cannot be read.
    """
    log = _read(directory / LOG_NAME)
    return None if log is None or log.lost is None else log.mended()


class _Log(NamedTuple):
    """A log's content, taken apart.

    Attributes:
        content: All of it.
        order: Of the bytes in its checksums.
        sums: The header's checksum, as SQLite's frames go on from it; None where it does not hold:
            then SQLite takes no frame at all.
        salts: Of its frames, shape ``(2,)``.
        frames: Their bytes, shape ``(n, size)``.
        heads: Their first numbers, shape ``(n, 6)``.
    """

    content: bytes
    order: str
    sums: _Words | None
    salts: _Words
    frames: NDArray[np.uint8]
    heads: _Words

    @property
    def ours(self) -> NDArray[np.bool_]:
        """Which frames are of this round of the log, shape ``(n,)``."""
        found: NDArray[np.bool_] = (self.heads[:, 2:4] == self.salts).all(axis=1)
        return found

    @property
    def page_size(self) -> int:
        """Bytes."""
        return self.frames.shape[1] - _FRAME_BYTES

    @property
    def first_bad(self) -> int:
        """The first frame that SQLite does not take, or how many there are."""
        if self.sums is None:
            return 0
        ours, before = self.ours, self.sums
        powers = _powers((self.page_size + _COVERED) // 8)
        for start in range(0, len(self.frames), _FRAMES_AT_ONCE):
            covered = _covered(self.frames[start : start + _FRAMES_AT_ONCE], self.order)
            for number, added in enumerate(_added(covered, powers), start):
                before, head = powers[-1] @ before + added, self.heads[number]
                if not ours[number] or not head[0] or (before != head[4:6]).any():
                    return number
        return len(self.frames)

    @property
    def lost(self) -> LostCommits | None:
        """The commits that SQLite does not take and that had another frame behind them."""
        ours = np.flatnonzero(self.ours)
        ours = ours[ours >= self.first_bad]
        commits = ours[self.heads[ours, 1] != 0]
        if not len(commits) or ours[-1] <= commits[0]:
            return None
        surely = int((commits < ours[-1]).sum())
        return LostCommits(surely, len(ours) * (self.page_size // _LEAST_ROW))

    def mended(self) -> bytes:
        """Return the same up to its last commit, with the salts and sums that it should have."""
        last = int(np.flatnonzero(self.ours & (self.heads[:, 1] != 0))[-1])
        header = list(_HEADER.unpack_from(self.content))
        header[:3] = _LITTLE, _VERSION, self.page_size
        header[4:6] = self.salts.tolist()
        sums = _sums(_NOTHING, _words(_HEADER.pack(*header), _MAGIC[_LITTLE]), _powers(3))
        header[6:] = sums.tolist()
        frames, heads = self.frames[: last + 1].copy(), self.heads[: last + 1].copy()
        heads[:, 2:4] = self.salts
        powers = _powers((self.page_size + _COVERED) // 8)
        for start in range(0, len(frames), _FRAMES_AT_ONCE):
            covered = _covered(frames[start : start + _FRAMES_AT_ONCE], _MAGIC[_LITTLE])
            for number, added in enumerate(_added(covered, powers), start):
                sums = powers[-1] @ sums + added
                heads[number, 4:6] = sums
        frames[:, :_FRAME_BYTES] = heads.astype(">u4").view(np.uint8)
        return _HEADER.pack(*header) + frames.tobytes()


def _read(path: Path) -> _Log | None:
    """Return a log, or None where there is none."""
    with storage_errors("read", path):
        content = path.read_bytes() if path.exists() else b""
    if len(content) < _HEADER.size:
        return None
    magic, _, page_size, _, *salts, one, other = _HEADER.unpack_from(content)
    order = _MAGIC.get(magic, "")
    sums = np.array((one, other), np.uint32)
    sound = bool(order) and (_sums(_NOTHING, _words(content, order), _powers(3)) == sums).all()
    if not sound:  # what its frames are is what most of them say
        page_size = _PAGE_BYTES
    size = _FRAME_BYTES + page_size
    count = (len(content) - _HEADER.size) // size
    frames = np.frombuffer(content, np.uint8, count * size, _HEADER.size).reshape(count, size)
    heads = np.ascontiguousarray(frames[:, :_FRAME_BYTES]).view(">u4").astype(np.uint32)
    if not sound:
        return _Log(content, order, None, _commonest(heads[:, 2:4]), frames, heads)
    return _Log(content, order, sums, np.array(salts, np.uint32), frames, heads)


def _covered(frames: NDArray[np.uint8], order: str) -> _Words:
    """Return the words of frames that their checksums cover, shape ``(n, words)``."""
    return np.concatenate((frames[:, :_COVERED], frames[:, _FRAME_BYTES:]), axis=1).view(order)


def _commonest(salts: _Words) -> _Words:
    pairs, counts = np.unique(salts, axis=0, return_counts=True)
    found: _Words = pairs[np.argmax(counts)] if len(pairs) else _NOTHING
    return found


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
