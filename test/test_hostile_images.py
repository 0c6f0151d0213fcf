"""Pictures that were made to hurt: bombs, cut files, flipped bytes, fields that do not fit."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.images import (
    MAX_PIXELS,
    SUPPORTED_ENCODINGS,
    check_raw,
    compressed_to_rgb,
    raw_to_rgb,
    rosbags_converter,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # what it says of damage

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
CONVERT = rosbags_converter()
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def compressed(data: bytes) -> SimpleNamespace:
    """Return what looks like sensor_msgs/CompressedImage."""
    return SimpleNamespace(format="", data=data)


def encoded(kind: str) -> bytes:
    """Return the picture in a format."""
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind)
    return buffer.getvalue()


ENCODED = {kind: encoded(kind) for kind in FORMATS}


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header is sound and claims that size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 16))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_decoded(kind: str) -> None:
    """What is refused below is refused for its damage."""
    assert compressed_to_rgb(compressed(ENCODED[kind])).shape == PICTURE.shape


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_cut_anywhere_is_refused_or_whole(kind: str) -> None:
    """No picture with half of its pixels missing gets through, at no length of the file."""
    whole = compressed_to_rgb(compressed(ENCODED[kind]))
    for length in range(0, len(ENCODED[kind]), 7):
        try:
            picture = compressed_to_rgb(compressed(ENCODED[kind][:length]))
        except InvalidInputError as error:
            assert error.field == "image.data"  # noqa: PT017  (most lengths raise, a few may not)
        else:
            np.testing.assert_array_equal(picture, whole)


def test_a_cut_jpeg_is_not_taken_for_whole_by_the_end_of_a_picture_inside_it() -> None:
    """Cameras put a small JPEG into the header of the large one."""
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    inner = ENCODED["JPEG"]
    segment = b"\xff\xfe" + struct.pack(">H", 2 + len(inner)) + inner  # a comment
    whole = buffer.getvalue()[:2] + segment + buffer.getvalue()[2:]
    assert compressed_to_rgb(compressed(whole)).shape == noise.shape
    with pytest.raises(InvalidInputError, match="cut off"):
        compressed_to_rgb(compressed(whole[: len(whole) // 2]))


def test_a_whole_jpeg_may_have_padding_behind_it() -> None:
    whole = compressed_to_rgb(compressed(ENCODED["JPEG"]))
    padded = compressed_to_rgb(compressed(ENCODED["JPEG"] + bytes(1000)))
    np.testing.assert_array_equal(padded, whole)


@pytest.mark.parametrize(
    ("width", "height"), [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (9000, 9000)]
)
def test_a_bomb_is_refused_before_its_pixels_exist(width: int, height: int) -> None:
    """A few bytes that claim billions of pixels cost nothing."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=r"pixels|exceeds limit"):
            compressed_to_rgb(compressed(png_that_claims(width, height)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_limit_is_the_callers_and_the_error_names_it() -> None:
    """One pixel too many is refused, exactly as many are taken."""
    pixels = PICTURE.shape[0] * PICTURE.shape[1]
    data = compressed(ENCODED["PNG"])
    assert compressed_to_rgb(data, max_pixels=pixels).shape == PICTURE.shape
    with pytest.raises(InvalidInputError, match=f"at most {pixels - 1} pixels.*= {pixels}"):
        compressed_to_rgb(data, max_pixels=pixels - 1)


def test_a_raw_image_has_the_same_limit() -> None:
    """Converting 16 bits to 8 takes several times a message's size."""
    raw = SimpleNamespace(
        height=24, width=32, encoding="rgb8", step=96, is_bigendian=0, data=PICTURE.tobytes()
    )
    assert raw_to_rgb(raw, CONVERT, max_pixels=24 * 32).shape == PICTURE.shape
    for look in (partial(raw_to_rgb, convert=CONVERT), check_raw):
        with pytest.raises(InvalidInputError, match="max_image_megapixels"):
            look(raw, max_pixels=24 * 32 - 1)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_flipped_bytes_give_a_picture_or_an_error_that_names_the_field(
    kind: str, places: list[tuple[int, int]]
) -> None:
    """Whatever a damaged file decodes to, it is a picture of a bounded size, or refused."""
    data = bytearray(ENCODED[kind])
    for place, value in places:
        data[place % len(data)] = value
    try:
        picture = compressed_to_rgb(compressed(bytes(data)))
    except InvalidInputError as error:
        assert error.field.startswith("image")  # noqa: PT017  (either may happen)
    else:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.shape[0] * picture.shape[1] <= MAX_PIXELS


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=200), start=st.sampled_from([b"", *(d[:30] for d in ENCODED.values())])
)
def test_rubbish_is_refused_by_field(data: bytes, start: bytes) -> None:
    """Random bytes, also behind the beginning of a real file, are no picture."""
    with pytest.raises(InvalidInputError) as caught:
        compressed_to_rgb(compressed(start + data))
    assert caught.value.field.startswith("image")


@settings(max_examples=400, deadline=None)
@given(
    height=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 80),
    encoding=st.sampled_from(SUPPORTED_ENCODINGS) | st.text(max_size=8),
    is_bigendian=st.integers(0, 255),
    data=st.binary(max_size=400),
)
def test_raw_fields_that_do_not_fit_are_refused_by_field(
    height: int, width: int, step: int, encoding: str, is_bigendian: int, data: bytes
) -> None:
    """Any values of any field: a picture of the stated size, or an error that is meant."""
    raw = SimpleNamespace(
        height=height, width=width, step=step, encoding=encoding, is_bigendian=is_bigendian,
        data=data,
    )  # fmt: skip
    try:
        picture = raw_to_rgb(raw, CONVERT)
    except InvalidInputError as error:
        assert error.field.startswith("image")  # noqa: PT017  (either may happen)
    else:
        assert picture.shape == (height, width, 3)
