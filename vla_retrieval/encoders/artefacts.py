"""A folder of what engines compiled, so that the next start need not compile it again.

Each artefact is a folder named by a hash of all that it depends on. It is written beside its
place and renamed, so that it is whole or not there; files have checksums, and one that does not
match is compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_KEPT = 4
_BLOCK = 1 << 22
_ABANDONED_SEC = 86_400.0

Key = Mapping[str, str]
"""Everything that an artefact depends on, by name."""


def default_cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/vla_retrieval/engines``, or the same below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vla_retrieval" / "engines"


class ArtefactCache:
    """Keeps the artefacts used last, at most four of them: each is as large as the model.

    Args:
        root: Its folder; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def folder(self, key: Key, build: Callable[[Path], None]) -> Iterator[Path]:
        """Lend the artefact's folder, which `build` fills where it is not there or damaged.

        Where nothing can be written (a full disk, a read-only one), a warning says so, and the
        artefact is built in the system's temporary folder and gone afterwards.

        Args:
            key: What it depends on.
            build: Writes files into the empty folder that it is given.
        """
        place = self._place(key)
        if not _is_whole(place) and not self._fill(place, key, build):
            with tempfile.TemporaryDirectory(prefix="vla_retrieval-") as scratch:
                build(Path(scratch))
                yield Path(scratch)
            return
        yield place

    def drop(self, key: Key) -> None:
        """Remove an artefact that turned out to be of no use."""
        shutil.rmtree(self._place(key), ignore_errors=True)

    def _place(self, key: Key) -> Path:
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
        return self._root / digest[:32]

    def _fill(self, place: Path, key: Key, build: Callable[[Path], None]) -> bool:
        """Build an artefact in its place; return whether the disk let that happen."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".", dir=self._root))
        except OSError as error:
            self._complain(error)
            return False
        # Before building: what is there afterwards is another process's, which may be reading it.
        shutil.rmtree(place, ignore_errors=True)
        try:
            build(scratch)
            sums = {path.name: _checksum(path) for path in sorted(scratch.iterdir())}
            manifest = {"key": dict(key), "crc32": sums}
            (scratch / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            scratch.rename(place)
            self._prune(place)
        except OSError as error:
            # Also ENOTEMPTY: another process has put the same artefact there meanwhile.
            if _is_whole(place):
                return True
            self._complain(error)
            return False
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True

    def _prune(self, newest: Path) -> None:
        """Remove what was used least recently, so that old models do not fill the disk."""
        others = [path for path in self._root.iterdir() if path != newest and path.is_dir()]
        kept = [path for path in others if not path.name.startswith(".")]
        kept.sort(key=_used_at, reverse=True)
        # What a killed process left is removed once nobody can be writing it any more.
        abandoned = [
            path
            for path in others
            if path not in kept and _used_at(path) < time.time() - _ABANDONED_SEC
        ]
        for path in kept[_KEPT - 1 :] + abandoned:
            shutil.rmtree(path, ignore_errors=True)

    def _complain(self, error: OSError) -> None:
        _log.warning(
            "%s cannot be written (%s): the engine is compiled anew at each start. Make room, or "
            "set engine_cache_dir to a folder that can be written.", self._root, error,
        )  # fmt: skip


def _is_whole(place: Path) -> bool:
    """Return whether every file of an artefact is there as it was written."""
    try:
        manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
        sums = dict(manifest["crc32"])
        is_whole = bool(sums) and all(_checksum(place / name) == sums[name] for name in sums)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged (%r) and is made anew", place, error)
        return False
    if not is_whole:
        _log.warning("%s is damaged (a checksum differs) and is made anew", place)
        return False
    with contextlib.suppress(OSError):
        os.utime(place)  # `_prune` goes by it
    return True


def _used_at(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except OSError:  # removed by another process meanwhile
        return 0.0


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
