"""Reads an mcap file past damage: record by record, without its index.

rosbags reads sound files, by their index. It refuses a file without an end (a recorder that was
killed, a full disk), and stops at the first damaged chunk. What can be read of those is read here;
format: https://mcap.dev/spec.
"""

from __future__ import annotations

import heapq
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)

from vla_retrieval.errors import InvalidInputError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_RUN_BYTES = 4_000_000
_FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}


class _Block(NamedTuple):
    """A chunk, or a run of messages outside of chunks: where its records are, and when they were.

    Attributes:
        offset: Of its first byte in the file, behind the chunk's own fields.
        size: Bytes in the file.
        whole: False for a chunk that the file's end cuts off.
    """

    start_ns: int
    end_ns: int
    offset: int
    size: int
    compression: str
    raw_size: int
    crc: int
    whole: bool


@dataclass
class _Run:
    """The run of messages outside of chunks that is being looked over."""

    start_ns: int
    end_ns: int
    offset: int
    end: int

    def block(self) -> _Block:
        size = self.end - self.offset
        return _Block(self.start_ns, self.end_ns, self.offset, size, "", size, 0, True)


class McapRecords:
    """One mcap file. Opening reads it whole once, in constant memory per chunk."""

    def __init__(self, path: Path) -> None:
        """Find the file's channels, its readable blocks and its damage.

        Raises:
            InvalidInputError: If it does not begin as an mcap file does.
            OSError: If it cannot be read.
        """
        self.damage: list[str] = []
        self._schemas: dict[int, tuple[str, MessageDefinition]] = {}
        self._channels: dict[int, Connection] = {}
        self._counts: Counter[int] = Counter()
        self._blocks: list[_Block] = []
        self._file = path.open("rb")
        try:
            if self._file.read(len(_MAGIC)) != _MAGIC:
                raise InvalidInputError("bag", "an mcap file", f"{path.name}, which begins as none")
            self._look_over(path.stat().st_size)
        except BaseException:
            self._file.close()
            raise

    @property
    def connections(self) -> list[Connection]:
        """Channels of CDR messages, with the number of messages that can be read of each."""
        found = sorted(self._channels.items())
        return [connection._replace(msgcount=self._counts[key]) for key, connection in found]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield connection, time of receipt in nanoseconds and bytes, earliest first.

        Equal times are in the order of the file. One chunk is held at a time, or as many as
        overlap in time.

        Args:
            connections: Whose messages to yield.
            start: Earliest time; None is open.
            stop: The first time that is too late; None is open.
        """
        wanted = {connection.id: connection for connection in connections}
        low = 0 if start is None else start
        high = sys.maxsize if stop is None else stop
        blocks = sorted(b for b in self._blocks if b.end_ns >= low and b.start_ns < high)
        streams = [self._stream(block, wanted, low, high) for block in blocks]
        for stamp_ns, _, channel, data in heapq.merge(*streams):
            if channel >= 0:
                yield wanted[channel], stamp_ns, data

    def _stream(
        self, block: _Block, wanted: Collection[int], low: int, high: int
    ) -> Iterator[tuple[int, int, int, bytes]]:
        # Keeps the merge from opening the block before its time has come.
        yield block.start_ns, -1, -1, b""
        found = []
        for number, (op, body) in enumerate(_records(_content(self._file, block))):
            if op == _MESSAGE and len(body) >= _MESSAGE_HEAD.size:
                channel, _, log_ns, _ = _MESSAGE_HEAD.unpack_from(body)
                if channel in wanted and low <= log_ns < high:
                    place = block.offset + number
                    found.append((log_ns, place, channel, body[_MESSAGE_HEAD.size :]))
        found.sort(key=lambda message: message[:2])
        yield from found

    def _look_over(self, size: int) -> None:
        at = len(_MAGIC)
        run: _Run | None = None
        while at < size:
            self._file.seek(at)
            head = self._file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                # The magic bytes at a sound file's end are shorter than a record's head.
                if head != _MAGIC:
                    self._cut_off(at)
                break
            op, length = _RECORD.unpack(head)
            end = at + _RECORD.size + length
            if op == _CHUNK:
                self._look_at_chunk(at, min(end, size), whole=end <= size)
            elif end <= size and op == _MESSAGE and length >= _MESSAGE_HEAD.size:
                run = self._extend(run, at, end)
            elif end <= size and op in (_SCHEMA, _CHANNEL):
                self._declare(op, self._file.read(length), at)
            if end > size:
                self._cut_off(at)
                break
            if op == _DATA_END:
                break
            if run is not None and run.end < end:
                self._blocks.append(run.block())
                run = None
            at = end
        else:
            self._cut_off(size)
        if run is not None:
            self._blocks.append(run.block())

    def _cut_off(self, at: int) -> None:
        self.damage.append(f"the file ends within the recording, at byte {at}")

    def _extend(self, run: _Run | None, at: int, end: int) -> _Run:
        """Take a message outside of chunks into the run, or into a new one."""
        channel, _, log_ns, _ = _MESSAGE_HEAD.unpack(self._file.read(_MESSAGE_HEAD.size))
        self._counts[channel] += 1
        if run is None:
            return _Run(log_ns, log_ns, at, end)
        if end - run.offset > _RUN_BYTES:
            self._blocks.append(run.block())
            return _Run(log_ns, log_ns, at, end)
        run.start_ns, run.end_ns = min(run.start_ns, log_ns), max(run.end_ns, log_ns)
        run.end = end
        return run

    def _look_at_chunk(self, at: int, end: int, *, whole: bool) -> None:
        """Take a chunk's channels and count its messages, or say why it cannot be read."""
        body = self._file.read(min(end - at - _RECORD.size, 4096))
        try:
            _, _, raw_size, crc = _CHUNK_HEAD.unpack_from(body)
            compression, offset = _text(body, _CHUNK_HEAD.size)
            offset += 8 + at + _RECORD.size
            block = _Block(0, 0, offset, end - offset, compression, raw_size, crc, whole)
            stamps = []
            for op, record in _records(_content(self._file, block)):
                if op == _MESSAGE:
                    channel, _, log_ns, _ = _MESSAGE_HEAD.unpack_from(record)
                    self._counts[channel] += 1
                    stamps.append(log_ns)
                elif op in (_SCHEMA, _CHANNEL):
                    self._declare(op, record, at)
        except Exception as error:
            # Whatever a decompressor or struct makes of damaged bytes, it is damage.
            self.damage.append(f"the chunk at byte {at} cannot be read and is left out ({error})")
            return
        if stamps:
            # The chunk's own times are not used: they are missing where it is cut off, and 0 in
            # files of some writers.
            block = block._replace(start_ns=min(stamps), end_ns=max(stamps))
            self._blocks.append(block)

    def _declare(self, op: int, body: bytes, at: int) -> None:
        try:
            if op == _SCHEMA:
                self._add_schema(body)
            else:
                self._add_channel(body)
        except (struct.error, UnicodeDecodeError, IndexError) as error:
            self.damage.append(f"the record at byte {at} cannot be read and is left out ({error})")

    def _add_schema(self, body: bytes) -> None:
        (key,) = struct.unpack_from("<H", body)
        name, at = _text(body, 2)
        encoding, at = _text(body, at)
        definition, _ = _text(body, at)
        kind = _FORMATS.get(encoding, MessageDefinitionFormat.NONE)
        known = kind is not MessageDefinitionFormat.NONE
        self._schemas[key] = (name, MessageDefinition(kind, definition if known else ""))

    def _add_channel(self, body: bytes) -> None:
        key, schema = struct.unpack_from("<HH", body)
        topic, at = _text(body, 4)
        encoding, _ = _text(body, at)
        if encoding == "cdr" and schema in self._schemas:
            name, definition = self._schemas[schema]
            ext = ConnectionExtRosbag2(encoding, [])
            self._channels[key] = Connection(key, topic, name, definition, "", 0, ext, self)


def _text(data: bytes, at: int) -> tuple[str, int]:
    """Return the string at an offset and the offset behind it."""
    (length,) = struct.unpack_from("<I", data, at)
    end = at + 4 + length
    if end > len(data):
        raise IndexError(f"a text of {length} bytes in {len(data) - at - 4}")
    return data[at + 4 : end].decode(), end


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield op code and body of each whole record."""
    at = 0
    while at + _RECORD.size <= len(data):
        op, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            return
        yield op, data[at : at + length]
        at += length


def _content(file: BinaryIO, block: _Block) -> bytes:
    """Return a block's records; of a chunk that is cut off, as many bytes as come out."""
    file.seek(block.offset)
    data = file.read(block.size)
    raw = data
    if block.compression == "zstd":
        raw = ZstdDecompressor().decompress(data, max_length=block.raw_size)
    elif block.compression == "lz4":
        raw = LZ4FrameDecompressor().decompress(data, max_length=block.raw_size)
    elif block.compression:
        raise ValueError(f"unknown compression {block.compression!r}")
    if block.whole and len(raw) != block.raw_size:
        raise ValueError(f"{len(raw)} bytes instead of {block.raw_size}")
    if block.whole and block.crc and zlib.crc32(raw) != block.crc:
        raise ValueError("wrong checksum")
    return raw
