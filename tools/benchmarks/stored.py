"""Filled stores that one part leaves for the next, and copies to do harm to."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.benchmarks.bench import Bench
from tools.benchmarks.children import ask_child
from tools.benchmarks.systems import OurMemory

_NEVER = "inf"


def stored_system(bench: Bench, name: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a filled store, and what filling it took; filled now if there is none.

    What was filled with other settings is filled again. A change of the memory's own code is not
    seen: ``--fresh`` empties the folder.

    Raises:
        ChildError: If it cannot be filled.
    """
    settings = bench.settings
    kind = f"memory-{settings.index}-{settings.index_bytes or 'default'}"
    folder = bench.folder / (kind if name == OurMemory.name else name.replace(" ", "-"))
    done = folder.with_suffix(".json")
    if done.exists() and folder.exists():
        known: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return folder, known
    shutil.rmtree(folder, ignore_errors=True)
    _ = bench.gallery  # made here, so that the clock of the child does not see it
    filled = ask_child("fill", settings, name, str(folder), _NEVER)
    done.write_text(json.dumps(filled), encoding="utf-8")
    return folder, filled


def fresh_copy(folder: Path, name: str) -> Path:
    """A copy of a folder beside it, in the place of an older one of that name.

    ``cp`` shares blocks where the file system can and copies inside the kernel where not.
    """
    copy = folder.parent / name
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run(["cp", "-r", "--reflink=auto", str(folder), str(copy)], check=True)
    return copy
