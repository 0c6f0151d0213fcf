"""A copy of the index on disk, so that opening a memory need not read every embedding.

One file: the arrays one after the other, then a table of contents with the checksum of each,
then a tail of fixed size that says where the table is. It is written beside the old one, fsynced
and renamed, so there is always one whole snapshot or none. It names the commit that it shows.
Whatever is wrong with it, the memory is opened without it, from the database, which is the truth.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory.codes import Codes
from vla_retrieval.memory.columns import Columns, ColumnState
from vla_retrieval.memory.directory import sync
from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.memory.halves import Half
from vla_retrieval.memory.hashing import HashCodes, Planes
from vla_retrieval.memory.index import Direction, Index, IndexKind
from vla_retrieval.memory.names import SNAPSHOT_NAME
from vla_retrieval.memory.vectors import ByteVectors, Vectors, WholeVectors
from vla_retrieval.projection import Head, projected_fingerprint
from vla_retrieval.types import Fingerprint, Modality, Similarity

TEMPORARY_NAME = f"{SNAPSHOT_NAME}.new"
FORMAT = 4

_BYTES_AT_ONCE = 1 << 20  # what was read is still beside the core when its checksum is computed
_NORMALS = "planes.normals"
_MAGIC = b"VLARSNAP"
_TAIL = struct.Struct("<8sQII")  # magic, where the table starts, its size, its checksum

Array = NDArray[Any]


class SnapshotError(Exception):
    """A snapshot cannot be used; the text says why. It never leaves the memory."""


class Frozen:
    """What of an index goes into a snapshot, taken while nobody changes it.

    The vectors are not copied: rows that are there do not change or move. The rest is small.

    Args:
        index: To be kept.
        sequence: The commit that it shows.
        removed: Entries that had been removed by then, ever.
        mark: Random; the database names it too (``counters.SNAPSHOT``).
        fingerprint: Of the stored embeddings.
    """

    def __init__(
        self, index: Index, sequence: int, removed: int, mark: int, fingerprint: Fingerprint
    ) -> None:
        """Copy what may change."""
        columns = index.columns.state()
        self._rows = index.columns.rows
        self._vectors = {m: half.vectors for m, half in index.halves.items()}
        self._codes = {
            m: half.codes.to_bytes() for m, half in index.halves.items() if half.codes is not None
        }
        self._planes = index.planes
        self._columns = {
            name: value
            for name, value in columns._asdict().items()
            if isinstance(value, np.ndarray)
        }
        self.sequence = sequence
        self._header: dict[str, Any] = {
            "format": FORMAT,
            "sequence": sequence,
            "removed": removed,
            "mark": mark,
            # Of what is compared: a snapshot of one head is not taken for that of another.
            "fingerprint": asdict(projected_fingerprint(fingerprint, index.head)),
            "similarity": index.similarity.value,
            "kind": index.kind.value,
            "dim": index.width,
            "rows": self._rows,
            "built_rows": index.built_rows,
            "key": columns.key.hex(),
            "longest": {m.value: half.longest for m, half in index.halves.items()},
            "depths": [
                [d.source.value, d.target.value, _named(d.beside), depth, index.recalls.get(d)]
                for d, depth in index.depths.items()
            ],
        }

    def write(self, directory: Path) -> None:
        """Write it in place of the old one, durably.

        Args:
            directory: Of the memory.

        Raises:
            StorageError: If the disk refuses; then the old one stays.
        """
        temporary = directory / TEMPORARY_NAME
        with storage_errors("write", temporary):
            try:
                with temporary.open("wb") as file:
                    self._write(file)
                    file.flush()
                    # Protects the content: after a power loss the new name must not show a
                    # file whose bytes never reached the disk.
                    os.fsync(file.fileno())
                temporary.replace(directory / SNAPSHOT_NAME)
                sync(directory)  # protects the rename
            finally:
                temporary.unlink(missing_ok=True)

    def _write(self, file: IO[bytes]) -> None:
        table = []
        for name, shape, dtype, parts in self._sections():
            start, checksum = file.tell(), 0
            for part in parts:
                if not part.size:
                    continue
                content = _bytes_of(np.ascontiguousarray(part))
                checksum = zlib.crc32(content, checksum)
                file.write(content)
            table.append([name, dtype, list(shape), start, checksum])
        contents = json.dumps({**self._header, "sections": table}).encode()
        start = file.tell()
        file.write(contents)
        file.write(_TAIL.pack(_MAGIC, start, len(contents), zlib.crc32(contents)))

    def _sections(self) -> Iterator[tuple[str, tuple[int, ...], str, Iterable[Array]]]:
        for name, array in self._columns.items():
            yield name, array.shape, array.dtype.str, [array]
        for modality, vectors in self._vectors.items():
            half = modality.value
            if isinstance(vectors, ByteVectors):
                yield f"{half}.low", vectors.low.shape, "<f4", [vectors.low]
                yield f"{half}.step", vectors.step.shape, "<f4", [vectors.step]
            dim = int(self._header["dim"])
            dtype = "<f4" if vectors.whole else "|u1"
            yield f"{half}.vectors", (self._rows, dim), dtype, vectors.blocks(self._rows)
        for modality, content in self._codes.items():
            yield f"{modality.value}.codes", content.shape, "|u1", [content]
        if self._planes is not None:
            yield _NORMALS, self._planes.normals.shape, "<f4", [self._planes.normals]
            for modality, centre in self._planes.centres.items():
                yield f"{modality.value}.centre", centre.shape, "<f4", [centre]


def remove_unfinished(directory: Path) -> None:
    """Remove what a write that was cut off has left in a memory's directory, if anything.

    It is as large as the index: on a disk that it fills no entry could be added, and no other
    snapshot would ever take its place.

    Raises:
        StorageError: If the disk refuses.
    """
    temporary = directory / TEMPORARY_NAME
    with storage_errors("remove", temporary):
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Restored:
    """What a snapshot holds.

    Attributes:
        index: As it was.
        sequence: The commit that it shows.
        removed: Entries that had been removed by then, ever.
        mark: Its own.
    """

    index: Index
    sequence: int
    removed: int
    mark: int


def read(
    directory: Path,
    fingerprint: Fingerprint,
    similarity: Similarity,
    head: Head | None = None,
    vectors_in: Path | None = None,
) -> Restored:
    """Return what the snapshot of a memory holds.

    Args:
        directory: Of the memory.
        fingerprint: Of its embeddings.
        similarity: How they are compared.
        head: What projects them before that, or None.
        vectors_in: Folder to map whole vectors from, or None to read them into RAM.

    Raises:
        SnapshotError: If there is none, or it is damaged, or of other embeddings or another head.
    """
    compared = projected_fingerprint(fingerprint, head)
    restored = read_compared(directory, compared, similarity, vectors_in)
    restored.index.dim, restored.index.head = fingerprint.dim, head
    return restored


def read_compared(
    directory: Path,
    compared: Fingerprint,
    similarity: Similarity,
    vectors_in: Path | None = None,
) -> Restored:
    """Return what the snapshot of a memory holds, its index without the head.

    Args:
        directory: Of the memory.
        compared: Of the vectors, after the head where there was one.
        similarity: How they are compared.
        vectors_in: As in ``read``.

    Raises:
        SnapshotError: As in ``read``.
    """
    with _reading(directory) as reader:
        expected = {
            "format": FORMAT, "fingerprint": asdict(compared),
            "similarity": similarity.value, "dim": compared.dim,
        }  # fmt: skip
        for name, value in expected.items():
            if reader.header.get(name) != value:
                got = reader.header.get(name)
                raise SnapshotError(
                    f"{directory / SNAPSHOT_NAME}: expected {name} {value!r}, got {got!r}"
                )
        sequence, removed, mark = (
            int(reader.header[name]) for name in ("sequence", "removed", "mark")
        )
        return Restored(reader.index(vectors_in), sequence, removed, mark)


def similarity_of(directory: Path) -> Similarity:
    """Return the similarity that the snapshot of a memory was written for.

    Raises:
        SnapshotError: If there is none, or its table of contents is damaged.
    """
    with _reading(directory) as reader:
        return Similarity(reader.header["similarity"])


def format_of(directory: Path) -> int:
    """Return the format in which the snapshot of a memory was written.

    Raises:
        SnapshotError: If there is none, or its table of contents is damaged.
    """
    with _reading(directory) as reader:
        return int(reader.header["format"])


def fingerprint_of(directory: Path) -> Fingerprint:
    """Return the fingerprint of the vectors in the snapshot of a memory.

    Raises:
        SnapshotError: If there is none, or its table of contents is damaged.
    """
    with _reading(directory) as reader:
        return Fingerprint(**reader.header["fingerprint"])


@contextmanager
def _reading(directory: Path) -> Iterator[_Reader]:
    """Lend a reader; whatever goes wrong with the file becomes a SnapshotError."""
    path = directory / SNAPSHOT_NAME
    try:
        with path.open("rb") as file:
            yield _Reader(file)
    except FileNotFoundError:
        raise SnapshotError(f"{path}: there is none") from None
    except SnapshotError:
        raise
    # Its checksums hold, so this is a file of another make, or a disk that fails.
    except (
        OSError, ValueError, KeyError, TypeError, RuntimeError, ArithmeticError, AssertionError,
    ) as error:  # fmt: skip
        raise SnapshotError(f"{path}: {error!r}") from error


class _Reader:
    """Reads a snapshot and compares every checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        if size < _TAIL.size:
            raise SnapshotError(f"{file.name}: is cut off")
        file.seek(size - _TAIL.size)
        magic, start, length, checksum = _TAIL.unpack(file.read(_TAIL.size))
        if magic != _MAGIC or start + length != size - _TAIL.size:
            raise SnapshotError(f"{file.name}: is cut off, or is no snapshot")
        file.seek(start)
        content = file.read(length)
        if zlib.crc32(content) != checksum:
            raise SnapshotError(f"{file.name}: its table of contents differs from its checksum")
        self.header: dict[str, Any] = json.loads(content)
        self._sections = {name: rest for name, *rest in self.header["sections"]}

    def index(self, vectors_in: Path | None) -> Index:
        header = self.header
        state = {name: self._array(name) for name in ColumnState._fields if name != "key"}
        index = Index(
            header["dim"], Similarity(header["similarity"]), IndexKind(header["kind"]),
            self._halves(vectors_in),
            Columns.restored(ColumnState(**state, key=bytes.fromhex(header["key"]))),
            built_rows=header["built_rows"], planes=self._planes(),
        )  # fmt: skip
        for source, target, beside, depth, recall in header["depths"]:
            direction = _direction(Modality(source), Modality(target), beside)
            index.depths[direction] = depth
            index.recalls[direction] = recall
        for half in index.halves.values():
            sizes = {
                len(half.vectors),
                len(half.vectors if half.codes is None else half.codes),
                header["rows"],
            }
            if sizes != {index.columns.rows}:
                raise SnapshotError(f"{self._file.name}: its parts differ in length: {sizes}")
        return index

    def _halves(self, vectors_in: Path | None) -> dict[Modality, Half]:
        # Each in a thread: reading, the checksum and the first touch of RAM take about as long.
        with ThreadPoolExecutor(len(Modality)) as pool:
            halves = pool.map(lambda modality: self._half(modality, vectors_in), Modality)
            return dict(zip(Modality, halves, strict=True))

    def _half(self, modality: Modality, vectors_in: Path | None) -> Half:
        half = modality.value
        squares = self.header["similarity"] == Similarity.NEGATIVE_L2.value
        kind = IndexKind(self.header["kind"])
        vectors: Vectors
        if f"{half}.low" in self._sections:
            vectors = ByteVectors(
                self._array(f"{half}.low"), self._array(f"{half}.step"), squares=squares
            )
        else:
            vectors = WholeVectors(self.header["dim"], squares=squares, folder=vectors_in)
        dtype, shape, *_ = self._sections[f"{half}.vectors"]
        expected = ("<f4" if vectors.whole else "|u1", [self.header["rows"], self.header["dim"]])
        if (dtype, shape) != expected:
            raise SnapshotError(
                f"{self._file.name}: expected {half} vectors {expected}, got {(dtype, shape)}"
            )
        self._fill(f"{half}.vectors", vectors.grown(self.header["rows"]))
        codes: Codes | HashCodes | None = None
        if kind is not IndexKind.EXACT:
            of_kind = HashCodes if kind is IndexKind.HASH else Codes
            codes = of_kind.from_bytes(self._array(f"{half}.codes"))
        return Half(vectors, codes, float(self.header["longest"][half]))

    def _planes(self) -> Planes | None:
        if _NORMALS not in self._sections:
            return None
        centres = {m: self._array(f"{m.value}.centre") for m in Modality}
        return Planes(self._array(_NORMALS), centres)

    def _array(self, name: str) -> Array:
        dtype, shape, *_ = self._sections[name]
        array: Array = np.empty(shape, dtype)
        self._fill(name, [array])
        return array

    def _fill(self, name: str, parts: Iterable[Array]) -> None:
        """Read a section into arrays, and compare its checksum; several threads may at once."""
        _, _, at, expected = self._sections[name]
        checksum = 0
        for part in parts:
            left = _bytes_of(part)
            while left:
                got = os.preadv(self._file.fileno(), [left[:_BYTES_AT_ONCE]], at)
                if not got:
                    raise SnapshotError(f"{self._file.name}: {name} is cut off")
                checksum = zlib.crc32(left[:got], checksum)
                left = left[got:]
                at += got
        if checksum != expected:
            raise SnapshotError(f"{self._file.name}: {name} differs from its checksum")


def _bytes_of(array: Array) -> memoryview:
    """Return the memory of a contiguous array; an empty one has none that can be seen."""
    return memoryview(array.view(np.uint8).reshape(-1) if array.size else b"")  # type: ignore[arg-type]


def _named(beside: Modality | None) -> str | None:
    return None if beside is None else beside.value


def _direction(source: Modality, target: Modality, beside: str | bool | None) -> Direction:
    """Return a direction; earlier snapshots only say whether the other modality asks beside it."""
    if isinstance(beside, bool):
        (other,) = set(Modality) - {target}
        return Direction(source, target, other if beside else None)
    return Direction(source, target, None if beside is None else Modality(beside))
