"""Recorded bytes to messages, with the definitions that the bag brings."""

from __future__ import annotations

from typing import Any

from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from vla_retrieval.errors import InvalidInputError

TEXT_FIELDS = (
    "data", "instruction", "text", "language_instruction", "command", "task", "prompt", "utterance",
)  # fmt: skip
"""Names of the field that holds the words of an instruction; the first that a type has counts."""

_NS_PER_SEC = 1_000_000_000
_IDL_RULE = "=" * 80 + "\n"


def type_name(name: str) -> str:
    """Return a message type with its namespace: ``std_msgs/String`` as ``std_msgs/msg/String``."""
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else name


class Decoder:
    """Decodes CDR. A type is what the bag says it is, else what the newest ROS 2 says."""

    def __init__(self, connections: list[Connection]) -> None:
        """Take the definitions; they are parsed when they are needed."""
        self._definitions: dict[str, tuple[str, MessageDefinition]] = {}
        self._stores: dict[str, Any] = {}
        for connection in connections:
            if connection.msgdef.format is not MessageDefinitionFormat.NONE:
                self._definitions.setdefault(
                    type_name(connection.msgtype), (connection.msgtype, connection.msgdef)
                )

    def decode(self, msgtype: str, data: bytes) -> Any:
        """Return the message: an object with its fields, sequences of numbers as arrays.

        Raises:
            InvalidInputError: If the bytes are no such message, or the type is not known.
        """
        store = self._store(msgtype)
        if msgtype not in store.fielddefs:
            raise InvalidInputError(
                "message", "a type that the bag or ROS 2 defines", msgtype,
                "Record the bag with mcap storage, which keeps the definitions.",
            )  # fmt: skip
        try:
            return store.deserialize_cdr(data, msgtype)
        except Exception as error:
            # Code that rosbags generates reads the bytes; what it raises at wrong ones is not told.
            raise InvalidInputError("message", f"a {msgtype} in CDR", str(error)) from error

    def text_field(self, msgtype: str) -> str:
        """Return the name of the field that holds an instruction's words, or ''."""
        definition = self._store(msgtype).fielddefs.get(msgtype)
        if definition is None:
            return ""
        texts = {name for name, (_, of) in definition[1] if of[0] in ("string", "wstring")}
        return next((name for name in TEXT_FIELDS if name in texts), "")

    def _store(self, msgtype: str) -> Any:
        if msgtype not in self._stores:
            # All of ROS 2's own definitions take 40 ms, and a bag with its own does not need them.
            own = self._own_store(msgtype)
            self._stores[msgtype] = get_typestore(Stores.LATEST) if own is None else own
        return self._stores[msgtype]

    def _own_store(self, msgtype: str) -> Any:
        """Return a store with the bag's definition of a type; None where ROS 2's has to do."""
        if msgtype not in self._definitions:
            return None
        name, definition = self._definitions[msgtype]
        own = get_typestore(Stores.EMPTY)
        try:
            own.register(_parse(type_name(name), definition))
        except Exception:
            # A definition that cannot be parsed is no loss where ROS 2 itself knows the type.
            return None
        return own if msgtype in own.fielddefs else None


def _parse(msgtype: str, definition: MessageDefinition) -> Any:
    if definition.format is MessageDefinitionFormat.MSG:
        return get_types_from_msg(definition.data, msgtype)
    types: Any = {}
    if not definition.data.startswith(f"{_IDL_RULE}IDL: "):
        return get_types_from_idl(definition.data)
    for part in definition.data.split(_IDL_RULE)[1:]:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))
    return types


def header_stamp_ns(message: Any) -> int:
    """Return the stamp in a message's header in nanoseconds; 0 where it has none, or none set."""
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    if stamp is None:
        return 0
    return int(stamp.sec) * _NS_PER_SEC + int(stamp.nanosec)
