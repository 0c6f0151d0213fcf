"""What the tools print: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory.contents import Progress as Report

_LINE_EVERY_SEC = 10.0  # of what lasts so long
_OTHER_NAMES = {"ks": "k", "out": "output"}  # of fields, as options


@contextmanager
def progress_bars(now: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """Lend a function that draws one bar per thing done; where no terminal is, some lines.

    Args:
        now: Seconds on a clock that does not go back.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(now)
        return
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip
    tasks: dict[str, Any] = {}

    def report(doing: str, done: int, total: int) -> None:
        if doing not in tasks:
            tasks[doing] = bars.add_task(doing, total=total)
        bars.update(tasks[doing], completed=done)

    with bars:
        yield report


def _lines(now: Callable[[], float]) -> Report:
    """Return what prints how far it is every ten seconds: a log has no use for bars."""
    said_sec = now()

    def report(doing: str, done: int, total: int) -> None:
        nonlocal said_sec
        if now() - said_sec >= _LINE_EVERY_SEC:
            said_sec = now()
            print(f"{doing}: {done} of {total}", file=sys.stderr, flush=True)

    return report


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def print_error(command: str, error: Exception, *, as_json: bool, usage: str = "") -> None:
    """Say what went wrong on stderr, and for machines on stdout.

    Args:
        command: That was given.
        error: What went wrong.
        as_json: Whether machines read it.
        usage: Of the command; a field that has an option there is called by that.
    """
    message = as_option(error, usage)
    print(f"{command}: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": message}})


def as_option(error: Exception, usage: str) -> str:
    """Return an error's message; the field that it begins with is an option, where it has one."""
    message = str(error)
    if isinstance(error, InvalidInputError):
        for name in (error.field, _OTHER_NAMES.get(error.field, "")):
            option = f"--{name.replace('_', '-')}"
            if name and re.search(rf"{re.escape(option)}\b(?!-)", usage):
                return f"{option}{message.removeprefix(error.field)}"
    return message


def size(count: int) -> str:
    """Return bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _plain(value: Any) -> Any:
    """Return what JSON has, from dataclasses, enums and paths."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
