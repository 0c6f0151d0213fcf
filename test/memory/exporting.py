"""Exports and imports, as the tool makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vla_retrieval.memory import Memory
from vla_retrieval.memory.contents import Contents, open_contents
from vla_retrieval.transfer import export_folder, export_parquet, import_entries, open_source

Export = Callable[[Contents, Path], int]
FORMATS: dict[str, Export] = {"parquet": export_parquet, "directory": export_folder}


def export(directory: Path, target: Path, form: str) -> int:
    with open_contents(directory) as contents:
        return FORMATS[form](contents, target)


def load(memory: Memory, path: Path) -> dict[int, int]:
    """Import, and return new ids by old ones."""
    mapping: dict[int, int] = {}
    batches = open_source(path).batches()
    import_entries(memory, batches, lambda old, new: mapping.update(zip(old, new, strict=True)))
    return mapping
