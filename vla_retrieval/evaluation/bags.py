"""Recorded bags: any rosbag2, whole or damaged, read in constant memory.

Directories and single files, sqlite3 and mcap, compressed as files or message by message, split,
and without metadata.yaml. rosbags reads them; what it refuses of a damaged mcap file is read record
by record (``mcap_records.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bag_files import BagFile, find_files
from vla_retrieval.evaluation.decoding import Decoder, type_name
from vla_retrieval.evaluation.query_ids import make_query_ids

_SKIP_AT_MOST = 64


@dataclass(frozen=True)
class Topic:
    """A recorded topic.

    Attributes:
        msgtype: For example ``sensor_msgs/msg/Image``.
        count: Messages of it in the bag, as far as they can be read.
    """

    name: str
    msgtype: str
    count: int


class Place(NamedTuple):
    """Where a message lies in its bag: the same in every reading of it.

    Attributes:
        file: Number of the bag's file.
        received_ns: When it was recorded.
        ordinal: Its number among messages of the topic in that file with the same time.
    """

    file: int
    topic: str
    received_ns: int
    ordinal: int


class Message(NamedTuple):
    """A recorded message, as bytes in CDR."""

    place: Place
    msgtype: str
    data: bytes


class Bag:
    """One bag. It opens its files when it needs them, so it can be used again after ``close``."""

    def __init__(self, path: Path, name: str = "") -> None:
        """Find the bag's files and topics.

        Args:
            path: A rosbag2 directory or one storage file.
            name: What to call the bag, without spaces; empty: as its folder or file is called.

        Raises:
            InvalidInputError: If there is nothing that can be read.
        """
        self.name = name or bag_names([path])[0]
        files, self._missing = find_files(path)
        self._files = [BagFile(file) for file in files]
        connections = [c for file in self._files for c in file.connections()]
        self.decoder = Decoder(connections)
        topics: dict[str, Topic] = {}
        for c in connections:
            before = topics.setdefault(c.topic, Topic(c.topic, type_name(c.msgtype), 0))
            topics[c.topic] = replace(before, count=before.count + c.msgcount)
        self.topics = tuple(topics[name] for name in sorted(topics))

    @property
    def damage(self) -> tuple[str, ...]:
        """Sentences about what is missing or cannot be read, as far as it was found yet."""
        return (*self._missing, *(s for file in self._files for s in file.damage))

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """Yield the messages of some topics, file by file, each in order of receipt.

        What cannot be read is left out; ``damage`` says so afterwards.
        """
        for number in range(len(self._files)):
            yield from self.messages_of_file(number, topics)

    def messages_of_file(
        self, number: int, topics: Collection[str], start: int | None = None
    ) -> Generator[Message, None, None]:
        """Yield the messages of one file received from ``start`` on, in order of receipt."""
        latest: dict[str, tuple[int, int]] = {}
        for connection, received_ns, data in self._files[number].messages(topics, start):
            topic = connection.topic
            stamp_ns, ordinal = latest.get(topic, (-1, 0))
            ordinal = ordinal + 1 if stamp_ns == received_ns else 0
            latest[topic] = (received_ns, ordinal)
            place = Place(number, topic, received_ns, ordinal)
            yield Message(place, type_name(connection.msgtype), data)

    def decode(self, message: Message) -> Any:
        """Return the message with its fields.

        Raises:
            InvalidInputError: If the bytes are no such message, or the type is not known.
        """
        return self.decoder.decode(message.msgtype, message.data)

    def close(self) -> None:
        """Remove what was unpacked for reading."""
        for file in self._files:
            file.close()


class Cursor:
    """Finds messages again. Asked in the order of the bag, it reads the bag once.

    It may be used from several threads; they take turns.
    """

    def __init__(self, bag: Bag, topics: Collection[str]) -> None:
        """Open nothing yet.

        Args:
            bag: Whose messages.
            topics: Of all messages that will be asked for.
        """
        self._bag = bag
        self._topics = frozenset(topics)
        self._stream: Generator[Message, None, None] | None = None
        self._file, self._received_ns = -1, -1
        # Protects the stream and how far it has come.
        self._lock = threading.Lock()

    def read(self, place: Place) -> Message:
        """Return the message at a place.

        Raises:
            InvalidInputError: If it is not there: the bag was changed since the place was noted.
        """
        with self._lock:
            ahead = place.file == self._file and place.received_ns > self._received_ns
            if self._stream is not None and ahead:
                found = self._advance(self._stream, place, _SKIP_AT_MOST)
                if found is not None:
                    return found
            self._close()
            stream = self._bag.messages_of_file(place.file, self._topics, place.received_ns)
            found = self._advance(stream, place, None)
            if found is None:
                stream.close()
                raise InvalidInputError(
                    "bag", f"the message of {place.topic} received at {place.received_ns} ns",
                    "none", f"{self._bag.name} was changed while it was read: start over.",
                )  # fmt: skip
            self._stream, self._file = stream, place.file
            return found

    def close(self) -> None:
        """Close the file; it is opened again when a message is asked for."""
        with self._lock:
            self._close()

    def _advance(
        self, stream: Generator[Message, None, None], place: Place, at_most: int | None
    ) -> Message | None:
        """Read on to a place; None where it is not among the next messages."""
        for number, message in enumerate(stream):
            self._received_ns = message.place.received_ns
            if message.place == place:
                return message
            # Another opening finds what is far ahead sooner, by the index.
            too_far = at_most is not None and number >= at_most
            if too_far or self._received_ns > place.received_ns:
                return None
        return None

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def bag_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a name without spaces for each bag, all different: as folders and files are called."""
    names = []
    for path in paths:
        name = path.resolve().name
        while Path(name).suffix in (".db3", ".mcap", ".zstd", ".zst"):
            name = Path(name).stem
        names.append(name)
    return make_query_ids(names)
