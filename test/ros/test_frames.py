"""What a frame reader decodes and embeds, and how often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="frames are messages")

from sensor_msgs.msg import Image

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.ros.frames import Frame, FrameReader, NewestFrame
from vla_retrieval.ros.images import to_image_message
from vla_retrieval.types import Embeddings, RgbImage


class Counting(DoubleEncoder):
    """Counts the images that it embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        self.images += len(images)
        return super().encode_images(images)


@pytest.fixture
def encoder() -> Counting:
    return Counting()


@pytest.fixture
def reader(encoder: Counting) -> FrameReader:
    return FrameReader(encoder, 1_000_000)


def frame(number: int, received_sec: float) -> Frame:
    picture = np.full((4, 4, 3), number, np.uint8)
    return Frame(to_image_message(picture, Image()), number, 0, received_sec)


def test_a_frame_is_embedded_once_for_all_who_ask(reader: FrameReader, encoder: Counting) -> None:
    first = frame(1, 10.0)
    assert np.array_equal(reader.scene(first), reader.scene(first))
    assert encoder.images == 1
    assert np.array_equal(reader.scene(first), encoder.encode_images([reader.image(first)])[0])


def test_a_request_that_waited_gets_the_embedded_frame_that_came_after_it(
    reader: FrameReader, encoder: Counting
) -> None:
    """A newer one would be embedded for it alone."""
    embedded, newer = frame(1, 10.0), frame(2, 11.0)
    reader.scene(embedded)
    assert reader.newest(newer, since_sec=9.0) is embedded
    assert np.array_equal(reader.scene(embedded), reader.scene(embedded))
    assert encoder.images == 1


def test_a_request_that_came_after_the_embedded_frame_gets_the_newest_one(
    reader: FrameReader,
) -> None:
    """What it asks about may have happened since."""
    embedded, newer = frame(1, 10.0), frame(2, 11.0)
    reader.scene(embedded)
    assert reader.newest(newer, since_sec=10.5) is newer


def test_a_frame_that_is_decoded_only_saves_a_request_nothing(reader: FrameReader) -> None:
    decoded, newer = frame(1, 10.0), frame(2, 11.0)
    reader.image(decoded)
    assert reader.newest(newer, since_sec=9.0) is newer


def test_a_frame_that_was_let_go_of_is_not_the_newest_and_the_next_one_counts_on() -> None:
    """Two frames with one number would pass for one frame."""
    newest = NewestFrame()
    newest.put(Image(), 1)
    newest.clear()
    assert newest.get() is None
    assert newest.put(Image(), 2).number == newest.number == 2
