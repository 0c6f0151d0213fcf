"""The files that a bag consists of: which, in which order, and how each is opened."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.mcap_records import McapRecords

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_STORAGES = (".db3", ".mcap")
_COMPRESSIONS = (".zstd", ".zst")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_METADATA = "metadata.yaml"


class Storage(Protocol):
    """An open storage file."""

    @property
    def connections(self) -> list[Connection]:
        """What was recorded, with numbers of messages."""
        ...

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield messages received from ``start`` to before ``stop``, earliest first."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def find_files(bag: Path) -> tuple[list[Path], list[str]]:
    """Find a bag's storage files.

    Args:
        bag: A rosbag2 directory, with metadata.yaml or without, or one storage file.

    Returns:
        The files in the order in which they were recorded, and sentences about what is missing.

    Raises:
        InvalidInputError: If there is none.
    """
    expected = "a rosbag2 directory, or a .db3 or .mcap file (also .zstd)"
    if not bag.exists():
        raise InvalidInputError("bag", expected, f"{bag}, which does not exist")
    if not bag.is_dir():
        if not _is_storage(bag):
            raise InvalidInputError("bag", expected, str(bag))
        return [bag], []
    notes: list[str] = []
    named = _files_of_metadata(bag, notes)
    present = [path for path in named if path.is_file()]
    missing = [path.name for path in named if not path.is_file()]
    if missing:
        notes.append(f"{_METADATA} names files that are not there: {', '.join(missing)}")
    if not present:
        present = sorted((p for p in bag.iterdir() if _is_storage(p)), key=_recorded_order)
    if not present:
        raise InvalidInputError("bag", expected, f"{bag}, which holds no .db3 or .mcap file")
    return present, notes


def _is_storage(path: Path) -> bool:
    stem = path.stem if path.suffix in _COMPRESSIONS else path.name
    return path.is_file() and Path(stem).suffix in _STORAGES


def _recorded_order(path: Path) -> tuple[list[int], str]:
    # rosbag2 splits into NAME_0, NAME_1, ..., NAME_10.
    return [int(number) for number in re.findall(r"_(\d+)\.", path.name)], path.name


def _files_of_metadata(bag: Path, notes: list[str]) -> list[Path]:
    """Return what metadata.yaml names; nothing where there is none that can be read."""
    path = bag / _METADATA
    if not path.exists():
        return []
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = content["rosbag2_bagfile_information"]["relative_file_paths"]
        # Old versions of rosbag2 wrote the bag's own folder into the names.
        return [bag / Path(str(name)).name for name in names]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        notes.append(f"{_METADATA} cannot be read and is passed over ({reason})")
        return []


class BagFile:
    """One storage file of a bag: opened as often as needed, and read past damage."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self.path = path
        self.damage: list[str] = []
        self._unpacked: Path | None = None
        self._folder: TemporaryDirectory[str] | None = None
        # Set once rosbags has failed: from then on the file is read record by record.
        self._by_records = False

    def open(self) -> Storage:
        """Open the file; the caller closes it.

        Raises:
            InvalidInputError: If nothing of it can be read.
        """
        path = self._storage_path()
        if not self._by_records:
            try:
                reader = Reader(path)
                reader.open()
            except Exception as error:
                # rosbags fails with whatever damaged bytes lead to, not only with its own errors.
                self._fall_back(error)
            else:
                # Without chunks, rosbags stops where two messages are not in order of receipt,
                # which recorders do not promise.
                if self._is_sqlite or getattr(reader.storage, "chunks", False):
                    return reader
                reader.close()
                self._by_records = True
        try:
            return McapRecords(path)
        except (InvalidInputError, OSError) as error:
            raise self._unreadable(error) from error

    def connections(self) -> list[Connection]:
        """Return what was recorded, with numbers of messages.

        Raises:
            InvalidInputError: If nothing of the file can be read.
        """
        storage = self.open()
        try:
            if isinstance(storage, McapRecords):
                self._take_damage(storage)
            return list(storage.connections)
        finally:
            storage.close()

    def messages(
        self, topics: Collection[str], start: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, time of receipt in nanoseconds and CDR bytes, earliest first.

        Messages that were compressed one by one are unpacked; one that cannot be is yielded as it
        is, for the decoder to refuse. Where the file is damaged, ``damage`` says so afterwards.

        Args:
            topics: Whose messages to yield.
            start: Earliest time of receipt; None is open.

        Raises:
            InvalidInputError: If nothing of the file can be read.
        """
        passed: Counter[tuple[str, int]] = Counter()
        latest = start
        try:
            for found in self._read(topics, start):
                if found[1] != latest:
                    passed.clear()
                    latest = found[1]
                passed[found[0].topic, found[1]] += 1
                yield found
            return
        except Exception as error:
            if isinstance(error, InvalidInputError):
                raise
            if self._by_records or self._is_sqlite:
                self._stop_at(error)
                return
            self._fall_back(error)
        # Both ways give equal messages in the same order, so what has been yielded is left out.
        for found in self._read(topics, latest):
            key = found[0].topic, found[1]
            if passed[key]:
                passed[key] -= 1
            else:
                yield found

    @property
    def _is_sqlite(self) -> bool:
        return ".db3" in self.path.suffixes

    def close(self) -> None:
        """Remove what was unpacked; the file can be opened again."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._unpacked = None

    def _read(
        self, topics: Collection[str], start: int | None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        storage = self.open()
        try:
            wanted = [c for c in storage.connections if c.topic in topics]
            if not wanted:
                return  # rosbags takes "no connections" for "all of them"
            if isinstance(storage, McapRecords):
                self._take_damage(storage)
            for connection, stamp_ns, data in storage.messages(wanted, start):
                yield connection, stamp_ns, _unpacked_message(data)
        finally:
            storage.close()

    def _storage_path(self) -> Path:
        """Return the file, or its unpacked copy in a temporary folder."""
        if self.path.suffix not in _COMPRESSIONS:
            return self._with_write_ahead_log()
        if self._unpacked is None:
            self._folder = TemporaryDirectory(prefix="vla_retrieval_bag_")
            self._unpacked = Path(self._folder.name) / self.path.stem
            try:
                with zstd.open(self.path, "rb") as packed, self._unpacked.open("wb") as file:
                    shutil.copyfileobj(packed, file)
            except (EOFError, zstd.ZstdError) as error:
                self._say(f"{self.path.name} is unpacked only up to its damage ({error})")
        return self._unpacked

    def _with_write_ahead_log(self) -> Path:
        """Return the file, or a copy with what its write-ahead log holds.

        A recorder that was killed leaves one. SQLite would bring it in by writing into the bag's
        folder, so that is done to a copy.
        """
        wal = self.path.with_name(self.path.name + "-wal")
        if not (self._is_sqlite and wal.is_file() and wal.stat().st_size):
            return self.path
        if self._unpacked is None:
            self._folder = TemporaryDirectory(prefix="vla_retrieval_bag_")
            copy = Path(self._folder.name) / self.path.name
            shutil.copyfile(self.path, copy)
            shutil.copyfile(wal, copy.with_name(wal.name))
            self._say(self._bring_in(copy, wal.name))
            self._unpacked = copy
        return self._unpacked

    def _bring_in(self, copy: Path, wal: str) -> str:
        """Bring a write-ahead log into its database; return a sentence about it."""
        try:
            with contextlib.closing(sqlite3.connect(copy)) as database:
                _, _, pages = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            shutil.copyfile(self.path, copy)
            return f"{wal} cannot be read and is passed over ({error})"
        if pages <= 0:
            return f"{wal} holds nothing that was committed"
        return f"{wal}, which a recorder left that did not close, is read too; the bag is as it was"

    def _fall_back(self, error: Exception) -> None:
        if self._is_sqlite:
            raise self._unreadable(error) from error
        self._by_records = True

    def _unreadable(self, error: Exception) -> InvalidInputError:
        recover = "sqlite3 FILE .recover may bring some of it back." if self._is_sqlite else ""
        return InvalidInputError("bag", "a bag that can be read", f"{self.path}: {error}", recover)

    def _stop_at(self, error: Exception) -> None:
        self._say(f"{self.path.name} is read only up to its damage ({error})")

    def _take_damage(self, storage: McapRecords) -> None:
        for sentence in storage.damage:
            self._say(f"{self.path.name}: {sentence}")

    def _say(self, sentence: str) -> None:
        if sentence not in self.damage:
            self.damage.append(sentence)


def _unpacked_message(data: bytes) -> bytes:
    # The messages themselves tell: CDR begins with 00, and metadata.yaml may be missing.
    if bytes(data[:4]) != _ZSTD_MAGIC:
        return data
    try:
        return zstd.decompress(data)
    except zstd.ZstdError:
        return data
