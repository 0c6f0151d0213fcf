"""What tests of the node's parts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vla_retrieval.ros.worker import InferenceWorker


@pytest.fixture
def worker() -> Iterator[InferenceWorker]:
    """Return a worker with room for three."""
    worker = InferenceWorker(max_waiting=3)
    yield worker
    worker.close()
