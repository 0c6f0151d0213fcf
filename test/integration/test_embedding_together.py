"""On a GPU, pictures that wait together are embedded together; each gets its own answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.types import Embeddings, RgbImage
from vla_retrieval_msgs.msg import MatchArray, Status

from .harness import START_SEC, WAIT_SEC, Robot, image_message, picture, wait_until
from .local_node import LocalNode


class Waiting(DoubleEncoder):
    """Says that it is on some device, notes its batches, and waits before the first one."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device
        self.images: list[int] = []
        self.held = False
        self.begun, self.go_on = threading.Event(), threading.Event()

    @property
    def device(self) -> str:
        return self._device

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        if self.held and not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(WAIT_SEC)
        self.images.append(len(images))
        return super().encode_images(images)


@pytest.fixture(params=["cuda:0", "cpu"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    encoder = Waiting(request.param)
    monkeypatch.setattr("vla_retrieval.ros.session.load_encoder", lambda _: encoder)
    return encoder


@pytest.fixture
def here(domain: int, tmp_path: Path, encoder: Waiting) -> Iterator[LocalNode]:
    node = LocalNode(tmp_path / "memory")
    yield node
    encoder.go_on.set()
    node.close()


@pytest.fixture
def planner(here: LocalNode, robot: Robot) -> Robot:
    assert robot.client.wait_until_active(lambda: True, START_SEC)
    return robot


def test_requests_frames_and_pairs_that_wait_are_one_batch_on_a_gpu_and_each_alone_on_a_cpu(
    here: LocalNode, planner: Robot, encoder: Waiting
) -> None:
    for seed in range(1, 6):
        image = image_message(picture(seed), seed)
        assert planner.call("remember", image=image, instruction=f"task {seed}").success
    looks = planner.collect(MatchArray, "retrieval/matches")
    planner.wait_until_heard()
    encoder.held = True
    encoder.images.clear()
    send = planner.client.call_async
    first = send("retrieve", image=image_message(picture(50), 50))
    assert encoder.begun.wait(WAIT_SEC)
    asked = {
        seed: send("retrieve", image=image_message(picture(seed), seed), k=1) for seed in (1, 2)
    }
    broken = send("retrieve", image=spoiled(image_message(picture(3), 3)))
    told = send("remember", image=image_message(picture(6), 6), instruction="task 6")
    planner.camera.publish(image_message(picture(4), 4))
    lanes = here.node.active_session().lanes
    wait_until(lambda: lanes.waiting == 5, "five that wait")
    encoder.go_on.set()
    wait_until(
        lambda: all(call.done() for call in (first, *asked.values(), broken, told)), "answers"
    )
    looked = looks.wait_for(lambda answer: answer.header.stamp.nanosec == 4)
    assert encoder.images == ([1, 4] if encoder.device == "cuda:0" else [1] * 5)
    for seed, call in asked.items():
        (match,) = call.result().result.matches
        assert match.instruction == f"task {seed}"
        assert match.score == pytest.approx(1.0, abs=1e-6)
        times = call.result().result.times
        parts = [getattr(times, name) for name in times.get_fields_and_field_types()]
        assert times.encode_image_sec > 0
        assert times.total_sec >= sum(parts) - times.total_sec - 1e-4
    assert looked.matches[0].instruction == "task 4"
    assert looked.times.total_sec >= looked.times.encode_image_sec > 0
    assert broken.result().status.code == Status.INVALID_REQUEST
    stored = planner.call("get_entry", entry_id=told.result().entry_id, with_embeddings=True)
    alone = DoubleEncoder().encode_images([picture(6)])[0]
    np.testing.assert_allclose(stored.scene_embedding, alone, atol=1e-6)


def spoiled(image: Any) -> Any:
    """Return an image with rows that are too short."""
    image.step = 1
    return image
