"""The encoder of an evaluation works beside those who read, decode and keep."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test.evaluation.writers import Recorded, write_rosbags
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.evaluation.frames import ReadOptions
from vla_retrieval.experiments import filling
from vla_retrieval.experiments.embedding import embedded_bags
from vla_retrieval.types import RgbImage

BATCH, FRAMES = 4, 22


@pytest.fixture
def bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bag of some batches, the last of them half full."""
    monkeypatch.setattr(filling, "_BATCH", BATCH)
    recorded = Recorded().say(0, "pick up the cup")
    for number in range(FRAMES):
        recorded.see(number + 0.5)
    return write_rosbags(tmp_path / "bag", recorded, "sqlite3")


class Picture(np.ndarray):
    """A picture that can be told from others, and dies when nobody holds it."""


def test_two_batches_of_pictures_are_in_ram_at_most(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakValueDictionary[int, Picture] = weakref.WeakValueDictionary()
    lock, most = threading.Lock(), [0]
    decode = filling._decode

    def noted(recorded: Any, seconds: Any) -> Any:
        made = decode(recorded, seconds).view(Picture)
        with lock:
            alive[id(made)] = made
            most[0] = max(most[0], len(alive))
        return made

    monkeypatch.setattr(filling, "_decode", noted)
    with embedded_bags([bag], DoubleEncoder(), ReadOptions(), 0.0, tmp_path / "work") as memory:
        assert len(memory.entry_ids()) == FRAMES
    assert 0 < most[0] <= 2 * BATCH
    assert not alive


class Meets(DoubleEncoder):
    """The test double; its second batch lasts until the third one's first picture is decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.more_is_decoded = threading.Event()

    def encode_images(self, images: list[RgbImage]) -> np.ndarray:
        self.batches += 1
        if self.batches == 2:
            assert self.more_is_decoded.wait(60.0)
        return super().encode_images(images)


def test_the_next_batch_is_read_and_decoded_while_the_encoder_works(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, decode, decoded = Meets(), filling._decode, [0]

    def noted(recorded: Any, seconds: Any) -> Any:
        decoded[0] += 1
        if decoded[0] > 2 * BATCH:
            encoder.more_is_decoded.set()
        return decode(recorded, seconds)

    monkeypatch.setattr(filling, "_decode", noted)
    with embedded_bags([bag], encoder, ReadOptions(), 0.0, tmp_path / "work") as memory:
        ids = memory.entry_ids()
        stamps = [entry.stamp_ns for entry in memory.get_many(ids)]
    assert stamps == sorted(stamps)
    assert len(stamps) == FRAMES


class Fails(DoubleEncoder):
    """The test double, whose third batch cannot be encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def encode_images(self, images: list[RgbImage]) -> np.ndarray:
        self.batches += 1
        if self.batches == 3:
            raise RuntimeError("no more")
        return super().encode_images(images)


def test_what_the_encoder_raises_reaches_the_caller_and_what_was_kept_stays(
    bag: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(RuntimeError, match="no more"),
        embedded_bags([bag], Fails(), ReadOptions(), 0.0, tmp_path / "work"),
    ):
        pass
    encoder = Fails()
    encoder.batches = 3  # it fails no more
    with embedded_bags([bag], encoder, ReadOptions(), 0.0, tmp_path / "work") as memory:
        assert len(memory.entry_ids()) == FRAMES
    assert encoder.batches - 3 < -(-FRAMES // BATCH)
