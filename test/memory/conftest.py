"""A memory to work with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vla_retrieval.memory import Memory

from .kept import kept, plain  # noqa: F401  (fixtures)
from .oracle import DIM, fingerprint


def child_environment() -> dict[str, str]:
    """Return an environment in which a child finds the modules that this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


OpenMemory = Callable[..., Memory]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where the test's memory is, or will be."""
    return tmp_path / "memory"


@pytest.fixture
def open_memory(directory: Path) -> Iterator[OpenMemory]:
    """Return a function that opens the memory of the test; the last one is closed at the end."""
    opened: list[Memory] = []

    def opener(**options: Any) -> Memory:
        for memory in opened:
            memory.close()
        options.setdefault("fingerprint", fingerprint(DIM))
        options.setdefault("durable", False)
        opened.append(Memory.open(options.pop("directory", directory), **options))
        return opened[-1]

    yield opener
    for memory in opened:
        memory.close()


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    """Return an empty memory."""
    return open_memory()


@pytest.fixture(params=["scanned", "scored directly"])
def way_of_scoring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with FAISS, and without it as for small sets."""
    directly = 0 if request.param == "scanned" else 10**9
    monkeypatch.setattr("vla_retrieval.memory.index._SCORED_DIRECTLY", directly)
    return str(request.param)


@pytest.fixture
def sound(open_memory: OpenMemory, directory: Path) -> Path:
    """Return the directory of a closed memory with entries 1 to 5 and a snapshot."""
    from .checked import fill  # not at the top: it imports from here

    fill(open_memory()).close()
    return directory
