"""Requests from Python values, checked: rclpy's C code ends the process where a type is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_retrieval.errors import InvalidInputError

_MOST_SHOWN = 80


def make_request(kind: type[Any], fields: Mapping[str, Any]) -> Any:
    """Return a request of a service.

    Whole numbers are taken where a field is a float, and numpy's numbers and arrays as Python's.

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
            raise _unknown(name, list(types))
        _set(request, name, name, types[name], value)
    return request


def unknown_name(what: str, name: str, known: Sequence[str]) -> InvalidInputError:
    """Return the error about a name that is none of the known ones.

    Args:
        what: Is named.
        name: As it was given.
        known: All that there are.
    """
    near = difflib.get_close_matches(name, known, 1)
    return InvalidInputError(
        what, f"one of {', '.join(known)}", repr(name), f"Did you mean {near[0]}?" if near else ""
    )


def _unknown(name: str, known: Sequence[str]) -> InvalidInputError:
    return unknown_name("field", name, known)


def _set(message: Any, name: str, path: str, kind: str, value: Any) -> None:
    """Set a field to a checked value.

    Args:
        message: Whose field it is; checks what it is given.
        name: Of the field.
        path: Of the field, from the request on.
        kind: Type of the field, as ROS writes it.
        value: To be set.
    """
    value = _plain(value, kind)
    _check_inside(value, path)
    try:
        setattr(message, name, value)
    except (AssertionError, TypeError) as error:
        raise InvalidInputError(path, kind, _shown(value), f"{error}.") from None


def _check_inside(value: Any, path: str) -> None:
    """Check each field of a message, or of each message of a list, by setting it in another one."""
    if isinstance(value, list):
        for place, part in enumerate(value):
            if hasattr(part, "get_fields_and_field_types"):
                _check_inside(part, f"{path}[{place}]")
    elif hasattr(value, "get_fields_and_field_types"):
        checked = type(value)(check_fields=True)
        for name, kind in value.get_fields_and_field_types().items():
            _set(checked, name, f"{path}.{name}", kind, getattr(value, name))


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


def _shown(value: Any) -> str:
    text = repr(value)
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
    return f"{type(value).__name__} {shown}"
