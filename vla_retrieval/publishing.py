"""Files and folders that appear under their name when they are whole, and not before."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vla_retrieval.errors import InvalidInputError, StorageError


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Lend a path beside a target, and rename what the block made there to the target.

    If the block raises, what it made is removed and the target does not exist. A killed process
    leaves a hidden ``.<name>.<random>.partial`` behind, and no target either.

    Args:
        target: A file or folder that does not exist yet; its parent does.

    Raises:
        InvalidInputError: If the target exists already or its parent does not; the field is
            ``out``.
        StorageError: If the disk refuses.
    """
    check_place(target)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        # Protects the content: after a power loss the name must not show what never reached the
        # disk. One call for all, because a folder may hold a million files.
        os.sync()
        check_absent(target)
        partial.rename(target)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}. Nothing is left of it. Give a"
            " place with free space that this user may write."
        ) from error
    finally:
        _remove(partial)


def check_absent(target: Path) -> None:
    """Check that nothing has a name yet.

    Raises:
        InvalidInputError: If something has it; the field is ``out``.
        StorageError: If nobody can say, as in a folder that this user may not enter.
    """
    with _looking_at(target):
        taken = target.exists() or target.is_symlink()
    if taken:
        raise InvalidInputError(
            "out", "a path that does not exist yet", f"{target}, which does",
            "Give another name, or move it away.",
        )  # fmt: skip


def check_place(target: Path) -> None:
    """Check that something new can have a name: before work whose result it will hold.

    Raises:
        InvalidInputError: If something has it, or its folder does not exist; the field is ``out``.
        StorageError: As ``check_absent`` says.
    """
    check_absent(target)
    with _looking_at(target):
        has_folder = target.parent.is_dir()
    if not has_folder:
        raise InvalidInputError(
            "out", "a path in a folder that exists", str(target), "Make its parent folder first."
        )


@contextmanager
def _looking_at(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot look at {target}: {error.strerror or error}. Give a shorter name, in a folder"
            " that this user may enter."
        ) from error


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # also where its name is too long to be looked at
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
