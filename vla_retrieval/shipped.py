"""Finds what ships with the package, from a source tree and from an installed prefix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vla_retrieval.errors import ShippedFileError

_SHARE = Path("share") / "vla_retrieval"


def find_shipped(name: str) -> Path:
    """Return the path of a shipped file or folder.

    Searched in this order: the source tree of this file (which a symlinked install leads to),
    the prefix in which this file is installed, and each prefix of ``AMENT_PREFIX_PATH``, as the
    ament index would; rclpy and ament are not needed for it.

    Args:
        name: Path below ``demo/``, e.g. ``"bag"`` or ``"model/vla-retrieval-demo.json"``.

    Raises:
        ShippedFileError: If it is in none of them.
    """
    for root in _roots():
        if (root / "demo" / name).exists():
            return root / "demo" / name
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "")
    raise ShippedFileError(
        f"demo/{name} is not found: expected it in {_source_tree()}, or in {_SHARE} of the prefix "
        f"where this package is installed or of AMENT_PREFIX_PATH={prefixes!r}, got neither. "
        "Source the workspace's setup file, or install the package again."
    )


def _roots() -> Iterator[Path]:
    yield _source_tree()
    for parent in Path(__file__).absolute().parents:
        yield parent / _SHARE
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix) / _SHARE


def _source_tree() -> Path:
    return Path(__file__).resolve().parents[1]
