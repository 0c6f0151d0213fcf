"""What several jobs will need is embedded in one pass, and each finds its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="pictures are messages")

from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros.frames import Frame, FrameReader, NewestFrame
from vla_retrieval.ros.images import to_image_message
from vla_retrieval.ros.pictures import NewestPicture, OwnPicture, embed_together
from vla_retrieval.types import Embeddings, RgbImage

SIDE = 16
MOST = 4 * SIDE * SIDE
BROKEN = CompressedImage(format="jpeg", data=b"\xff\xd8 no picture")


class Noting(DoubleEncoder):
    """Notes the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []
        self.texts: list[list[str]] = []

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        self.images.append(len(images))
        return super().encode_images(images)

    def encode_instructions(self, texts: Sequence[str]) -> Embeddings:
        self.texts.append(list(texts))
        return super().encode_instructions(texts)


@pytest.fixture
def encoder() -> Noting:
    return Noting()


def message(number: int) -> Image:
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return to_image_message(pixels, Image())


def own(number: int, most: int = MOST) -> OwnPicture:
    return OwnPicture(message(number), "image", most)


def check(encoder: Noting, *pictures: OwnPicture) -> None:
    """Each has the embedding that it would have had alone."""
    for picture in pictures:
        assert picture.scene is not None
        np.testing.assert_array_equal(
            picture.scene, DoubleEncoder().encode_images([picture.image()])[0]
        )


def test_pictures_are_embedded_in_one_pass_and_instructions_in_another(encoder: Noting) -> None:
    pictures = [own(number) for number in range(3)]
    embed_together(["cup", pictures[0], pictures[1], "bowl", pictures[2]], encoder, MOST)
    assert (encoder.images, encoder.texts) == ([3], [["cup", "bowl"]])
    check(encoder, *pictures)


def test_what_is_malformed_is_left_to_its_own_job(encoder: Noting) -> None:
    broken, large = OwnPicture(BROKEN, "compressed_image", MOST), own(9, most=SIDE)
    good = own(1), own(2)
    embed_together(["cup", " ", good[0], broken, large, good[1], "bowl"], encoder, MOST)
    assert (encoder.images, encoder.texts) == ([2], [["cup", "bowl"]])
    check(encoder, *good)
    for picture, field in ((broken, "compressed_image"), (large, "image")):
        assert picture.scene is None
        with pytest.raises(InvalidInputError, match=field):
            picture.image()


def test_a_single_one_of_a_kind_is_left_to_its_job(encoder: Noting) -> None:
    picture = own(1)
    embed_together(["cup", picture], encoder, MOST)
    assert (encoder.images, encoder.texts) == ([], [])
    assert picture.scene is None


def test_what_is_embedded_is_not_embedded_again(encoder: Noting) -> None:
    first, second, third = own(1), own(2), own(3)
    embed_together([first, second], encoder, MOST)
    embed_together([first, second, third], encoder, MOST)
    assert encoder.images == [2]


def test_pictures_together_have_no_more_pixels_than_one_may_have(encoder: Noting) -> None:
    pictures = [own(number) for number in range(6)]
    embed_together(pictures, encoder, 3 * SIDE * SIDE)
    assert encoder.images == [3]
    check(encoder, *pictures[:3])
    assert [picture.scene for picture in pictures[3:]] == [None] * 3


@pytest.fixture
def newest() -> NewestFrame:
    return NewestFrame()


@pytest.fixture
def reader(encoder: Noting) -> FrameReader:
    return FrameReader(encoder, MOST)


def test_the_cameras_newest_frame_is_embedded_with_the_others_once_for_all_who_want_it(
    encoder: Noting, newest: NewestFrame, reader: FrameReader
) -> None:
    looks = [NewestPicture(newest, reader) for _ in range(2)]
    older = newest.put(message(7), 1)
    frame = newest.put(message(8), 2)
    picture = own(1)
    embed_together([picture, *looks], encoder, MOST)
    assert encoder.images == [2]
    np.testing.assert_array_equal(
        reader.scene(frame), DoubleEncoder().encode_images([reader.image(frame)])[0]
    )
    assert encoder.images == [2]
    assert not reader.has_embedded(older)


def test_a_frame_that_is_embedded_already_or_not_there_is_left_out(
    encoder: Noting, newest: NewestFrame, reader: FrameReader
) -> None:
    look = NewestPicture(newest, reader)
    embed_together([own(1), look], encoder, MOST)
    assert encoder.images == []
    reader.scene(newest.put(message(8), 1))
    embed_together([own(1), look], encoder, MOST)
    assert encoder.images == [1]


def test_what_a_thread_that_was_stuck_made_of_a_frame_is_not_taken_for_another_frames(
    encoder: Noting, newest: NewestFrame, reader: FrameReader
) -> None:
    """Another thread has gone on with the next frame, by the same look that waited."""
    look = NewestPicture(newest, reader)
    newest.put(message(7), 1)
    stuck = look.to_embed()
    assert stuck is not None
    second = newest.put(message(8), 2)
    assert look.to_embed() is not None
    look.keep(stuck, encoder.encode_images([stuck])[0], 0.0)
    assert not reader.has_embedded(second)
    np.testing.assert_array_equal(
        reader.scene(second), DoubleEncoder().encode_images([reader.image(second)])[0]
    )


def test_each_picture_knows_its_share_of_the_time(
    newest: NewestFrame, reader: FrameReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 16.0])
    monkeypatch.setattr("vla_retrieval.ros.pictures.time.monotonic", lambda: next(clock))
    pictures = own(1), own(2)
    frame = Frame(message(3), 1, 1, received_sec=0.0)
    monkeypatch.setattr(newest, "get", lambda: frame)
    embed_together([*pictures, NewestPicture(newest, reader)], DoubleEncoder(), MOST)
    assert [picture.took_sec for picture in pictures] == [2.0, 2.0]
    assert reader.took_ahead_sec(frame) == 2.0
    assert own(4).took_sec == 0.0


def test_a_newer_frame_than_the_embedded_one_is_embedded_by_who_looks_at_it(
    encoder: Noting, newest: NewestFrame, reader: FrameReader
) -> None:
    look = NewestPicture(newest, reader)
    first = newest.put(message(7), 1)
    embed_together([own(1), look], encoder, MOST)
    second = newest.put(message(8), 2)
    assert reader.has_embedded(first)
    assert not reader.has_embedded(second)
    assert not np.array_equal(reader.scene(first), reader.scene(second))
