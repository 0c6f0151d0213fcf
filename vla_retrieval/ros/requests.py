"""Requests from Python values, checked: rclpy's C code ends the process where a type is wrong."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_retrieval.errors import InvalidInputError, did_you_mean


def make_request(kind: type[Any], fields: Mapping[str, Any]) -> Any:
    """Return a request of a service.

    Whole numbers are taken where a field is a float, and numpy's numbers and arrays as Python's;
    also inside of messages, which are copied. Pixels are shared.

    Args:
        kind: Class of the request.
        fields: By name; those that are left out keep their defaults.

    Raises:
        InvalidInputError: If there is no field of a name, or a value is not of its type or range;
            also inside of a message that is the value of a field.
    """
    request = kind(check_fields=True)
    types = kind.get_fields_and_field_types()
    for name, value in fields.items():
        if name not in types:
            raise unknown_name("field", name, list(types))
        _set(request, name, name, types[name], value)
    return request


def unknown_name(what: str, name: str, known: Sequence[str]) -> InvalidInputError:
    """Return the error about a name that is none of the known ones.

    Args:
        what: Is named.
        name: As it was given.
        known: All that there are.
    """
    return InvalidInputError(
        what, f"one of {', '.join(known)}", repr(name), did_you_mean(name, known)
    )


def _set(message: Any, name: str, path: str, kind: str, value: Any) -> None:
    """Set a field to a checked value.

    Args:
        message: Whose field it is; checks what it is given.
        name: Of the field.
        path: Of the field, from the request on.
        kind: Type of the field, as ROS writes it.
        value: To be set.
    """
    value = _checked(_plain(value, kind), path)
    _check_encodable(value, path)
    try:
        setattr(message, name, value)
    except (AssertionError, TypeError) as error:
        got = f"{type(value).__name__} {reprlib.repr(value)}"
        raise InvalidInputError(path, kind, got, f"{error}.") from None


def _checked(value: Any, path: str) -> Any:
    """Return a message, or a list of them, whose fields were checked; all else as it is."""
    if isinstance(value, list):
        return [_checked(part, f"{path}[{place}]") for place, part in enumerate(value)]
    if not hasattr(value, "get_fields_and_field_types"):
        return value
    checked = type(value)(check_fields=True)
    for name, kind in value.get_fields_and_field_types().items():
        _set(checked, name, f"{path}.{name}", kind, getattr(value, name))
    return checked


def _check_encodable(value: Any, path: str) -> None:
    """Raise InvalidInputError for text that is not valid Unicode: rclpy fails on it as it sends."""
    for text in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidInputError(path, "valid Unicode", str(error)) from None


def _plain(value: Any, kind: str) -> Any:
    """Return a value with numpy's types as Python's, and whole numbers as floats for a float."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, (list, tuple, set, range)):
        value = [part.item() if isinstance(part, np.generic) else part for part in value]
    if kind in ("float", "double") and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
