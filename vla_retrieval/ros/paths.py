"""Paths that come over the graph, as values of parameters, and where they may lead.

Whoever can set a parameter could otherwise have any file of the robot read, and any directory
written. What the node was started with is its owner's word, and free.
"""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

from vla_retrieval.errors import InvalidInputError

_LOCAL_MODEL = "local-dir:"


def expanded(name: str, value: str) -> Path:
    """Return the path that a parameter was started with, with the home for its ``~``.

    Raises:
        InvalidInputError: If that is not known.
    """
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise InvalidInputError(
            name, "a path whose ~ is a home that is known", repr(value),
            "Write the path in full, or set HOME.",
        ) from None  # fmt: skip


class Paths:
    """Tells what a path in a parameter means.

    A value that the node was started with means what it means to every program: it is absolute,
    or relative to the working directory, and ``~`` is the home. Any other one is relative to one
    directory, and stays inside.

    Args:
        root: That directory.
        given: The values at the start, by the parameter's name.
    """

    def __init__(self, root: Path, given: dict[str, str]) -> None:
        self._root = root
        self._given = given

    def resolve(self, name: str, value: str) -> str:
        """Return the path that a value means, or nothing where it is empty.

        Args:
            name: Of the parameter.
            value: A path; for ``model``, a name, which is returned as it is, or the path of a
                folder after ``local-dir:``, which is put in front of the result as well.

        Raises:
            InvalidInputError: If it was set after the start and leads out of the directory, or
                cannot be looked at, if its ``~`` is a home that nobody knows, or if ``memory_dir``
                is empty.
        """
        prefix, path = "", value
        if name == "model":
            if not value.startswith(_LOCAL_MODEL):
                return value
            prefix, path = _LOCAL_MODEL, value[len(_LOCAL_MODEL) :]
        if not path and name == "memory_dir":  # that of a path is the working directory
            raise InvalidInputError(name, "a directory", repr(value))
        if not path:
            return value
        if value == self._given.get(name):
            return prefix + str(expanded(name, path))
        return prefix + str(self._inside(name, path))

    def _inside(self, name: str, value: str) -> Path:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or value.startswith("~") or "\0" in value:
            raise self._refused(name, repr(value))
        inside = self._root
        for part in path.parts:
            inside = inside / part
            try:
                is_link = _is_link(inside)
            except OSError as error:  # a name that is too long, or a folder that is not to be read
                got = f"{value!r:.200}, which cannot be looked at ({error.strerror})"
                raise self._refused(name, got) from None
            if is_link:
                raise self._refused(name, f"{value!r}, where {inside} is a link")
        return inside

    def _refused(self, name: str, got: str) -> InvalidInputError:
        return InvalidInputError(
            name,
            f"a path relative to {self._root} (remote_paths_dir) that stays inside, without .. and "
            "links, since it is set after the start",
            got,
            "Put the file there, or start the node with this value.",
        )


def _is_link(path: Path) -> bool:
    # Not Path.is_symlink: from Python 3.13 on, what may not be looked at is no link for it.
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
