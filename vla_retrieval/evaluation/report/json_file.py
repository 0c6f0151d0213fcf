"""An evaluation as JSON and back, without losing a digit.

JSON has no NaN and no infinity: NaN is ``null``, the others are ``"Infinity"`` and
``"-Infinity"``.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.evaluation.results import Evaluation
from vla_retrieval.publishing import published

FORMAT = "vla_retrieval evaluation"
VERSION = 1
"""Rises when an older reader would misread a file, not when a field with a default is added."""

_NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def to_json(evaluation: Evaluation) -> str:
    """Return an evaluation as JSON text that ends in a line break and can be encoded as UTF-8."""
    document = {"format": FORMAT, "version": VERSION, "evaluation": _plain(evaluation)}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)
    # Half a character, as damaged text may hold, has no UTF-8; in JSON it can be spelt.
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def from_json(text: str) -> Evaluation:
    """Return the evaluation that ``to_json`` wrote.

    Fields that this version does not know are passed over, and those with a default may lack.

    Raises:
        InvalidInputError: If it is something else, of a newer version or damaged. The field names
            the place.
    """
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("evaluation", "JSON", f"text that is none ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        got = document.get("format") if isinstance(document, dict) else document
        raise InvalidInputError("format", repr(FORMAT), _short(got), "Give a file of `evaluate`.")
    if document.get("version") != VERSION:
        raise InvalidInputError(
            "version", str(VERSION), _short(document.get("version")),
            "Read it with the version of vla_retrieval that wrote it, or evaluate again.",
        )  # fmt: skip
    found: Evaluation = _dataclass(Evaluation, document.get("evaluation"), "evaluation")
    return found


def write_json(evaluation: Evaluation, target: Path) -> None:
    """Write an evaluation to a new file, which appears when it is whole.

    Raises:
        InvalidInputError: If the file exists or its folder does not.
        StorageError: If the disk refuses.
    """
    with published(target) as partial:
        partial.write_text(to_json(evaluation), encoding="utf-8")


def read_json(source: Path) -> Evaluation:
    """Return the evaluation in a file.

    Raises:
        InvalidInputError: If the file holds no evaluation of this version.
        StorageError: If it cannot be read.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot read {source}: {error.strerror or error}. Give the path of an evaluation.json."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(str(source), "UTF-8 text", str(error)) from error
    return from_json(text)


def _plain(value: Any) -> Any:
    """Return what json can write; numbers of NumPy become Python's."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return _plain_float(float(value))
    return value


def _plain_float(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# get_type_hints evaluates every annotation of a class, and an evaluation holds thousands of points.
@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(kind: Any, value: Any, where: str) -> Any:
    """Return a value of JSON as what a field's annotation says."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    if kind in _SCALARS:
        return _SCALARS[kind](value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in arguments if one is not types.NoneType)
        return None if value is None else _typed(inner, value, where)
    if origin is tuple:
        items = _checked(list, "a list", value, where)
        return tuple(_typed(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    names = _checked(dict, "an object", value, where)
    return {name: _typed(arguments[1], item, f"{where}.{name}") for name, item in names.items()}


def _dataclass(kind: type, value: Any, where: str) -> Any:
    got = _checked(dict, "an object", value, where)
    hints = _hints(kind)
    found = {}
    for field in fields(kind):
        if field.name in got:
            name = field.name
            found[name] = _typed(hints[name], got[name], f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InvalidInputError(f"{where}.{field.name}", "a value", "nothing")
    return kind(**found)


def _checked(kind: type, expected: str, value: Any, where: str) -> Any:
    # To Python, True is a whole number.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidInputError(where, expected, _short(value))
    return value


def _float(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**1023:
        raise InvalidInputError(where, "a number that fits into 64 bits", _short(value))
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InvalidInputError(where, "a number or null", _short(value))
    return float(value)


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    float: _float,
    int: lambda value, where: _checked(int, "a whole number", value, where),
    str: lambda value, where: _checked(str, "text", value, where),
}


def _short(value: Any) -> str:
    # Python refuses to print whole numbers of more than 4300 digits.
    if isinstance(value, int) and abs(value) >= 2**256:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
