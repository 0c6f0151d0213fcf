"""One process that forks all that are killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .killer import Killer


@pytest.fixture(scope="session")
def killer() -> Iterator[Killer]:
    """Return what lets lives be lived and kills them."""
    with_imports = Killer()
    yield with_imports
    with_imports.close()
