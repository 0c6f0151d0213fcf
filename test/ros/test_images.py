"""Image messages become the right RGB arrays, or errors that name the field."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

pytest.importorskip("sensor_msgs", reason="needs ROS 2 messages")

from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.images import rosbags_converter
from vla_retrieval.ros import images
from vla_retrieval.ros.images import is_empty, to_image_message, to_rgb

HEIGHT, WIDTH = 6, 10
GRADIENT = (
    np.arange(HEIGHT * WIDTH * 3, dtype=np.uint32).reshape(HEIGHT, WIDTH, 3) * 7 % 256
).astype(np.uint8)
ALPHA = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)


def message(
    pixels: NDArray[np.generic], encoding: str, padding: int = 0, is_bigendian: bool = False
) -> Image:
    """Return a raw message with ``padding`` bytes of rubbish behind each row."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rubbish = np.full((len(rows), padding), 0xAB, np.uint8)
    return Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=rows.shape[1] + padding,
        is_bigendian=int(is_bigendian),
        data=np.hstack([rows, rubbish]).tobytes(),
    )


@pytest.fixture(params=["rosbags", "cv_bridge"])
def converter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert with each of the two converters, as far as they are installed."""
    if request.param == "rosbags":
        chosen = rosbags_converter()
    else:
        try:
            chosen = images.cv_bridge_converter()
        except ImportError as error:
            pytest.skip(f"cv_bridge comes with a ROS 2 installation only: {error}")
    monkeypatch.setattr(images, "_chosen", [chosen])


@pytest.mark.usefixtures("converter")
class TestRawImages:
    """Each encoding, with and without padding, through each converter."""

    @pytest.mark.parametrize("padding", [0, 1, 2, 3, 4, 64])
    @pytest.mark.parametrize(
        ("encoding", "pixels"),
        [
            ("rgb8", GRADIENT),
            ("bgr8", GRADIENT[..., ::-1]),
            ("rgba8", np.concatenate([GRADIENT, ALPHA], axis=2)),
            ("bgra8", np.concatenate([GRADIENT[..., ::-1], ALPHA], axis=2)),
        ],
    )
    def test_colours_and_padding_are_respected(
        self, encoding: str, pixels: NDArray[np.uint8], padding: int
    ) -> None:
        """The same picture comes out of each channel order and row length."""
        np.testing.assert_array_equal(to_rgb(message(pixels, encoding, padding)), GRADIENT)

    @pytest.mark.parametrize("is_bigendian", [False, True])
    @pytest.mark.parametrize(
        ("encoding", "pixels"),
        [
            ("rgb16", GRADIENT),
            ("bgr16", GRADIENT[..., ::-1]),
            ("rgba16", np.concatenate([GRADIENT, ALPHA], axis=2)),
            ("bgra16", np.concatenate([GRADIENT[..., ::-1], ALPHA], axis=2)),
        ],
    )
    def test_colours_of_sixteen_bits_are_respected(
        self, encoding: str, pixels: NDArray[np.uint8], is_bigendian: bool
    ) -> None:
        """255 of 8 bits is 65535 of 16."""
        deep = (pixels.astype(np.uint16) * 257).astype(">u2" if is_bigendian else "<u2")
        picture = to_rgb(message(deep, encoding, 2, is_bigendian))
        np.testing.assert_array_equal(picture, GRADIENT)

    @pytest.mark.parametrize("padding", [0, 1, 5])
    def test_grey_becomes_three_equal_channels(self, padding: int) -> None:
        """mono8 is repeated in each channel."""
        grey = GRADIENT[..., 0]
        expected = np.repeat(grey[..., None], 3, axis=2)
        np.testing.assert_array_equal(to_rgb(message(grey, "mono8", padding)), expected)

    @pytest.mark.parametrize("is_bigendian", [False, True])
    @pytest.mark.parametrize("padding", [0, 1, 2])
    def test_sixteen_bits_are_scaled_and_rounded_whatever_the_byte_order(
        self, is_bigendian: bool, padding: int
    ) -> None:
        """mono16 0..65535 becomes 0..255, to the nearest."""
        deep = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
        sent = deep.astype(">u2" if is_bigendian else "<u2")
        expected = np.rint(deep / 257.0).astype(np.uint8)
        picture = to_rgb(message(sent, "mono16", padding, is_bigendian))
        np.testing.assert_array_equal(picture, np.repeat(expected[..., None], 3, axis=2))

    @pytest.mark.parametrize(
        ("encoding", "first_row", "second_row"),
        [
            ("bayer_rggb", "RG", "GB"),
            ("bayer_bggr", "BG", "GR"),
            ("bayer_gbrg", "GB", "RG"),
            ("bayer_grbg", "GR", "BG"),
        ],
    )
    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("padding", [0, 3])
    def test_bayer_mosaics_give_their_colour_back(
        self, encoding: str, first_row: str, second_row: str, padding: int, bits: int
    ) -> None:
        """A mosaic of one flat colour is that colour, for each of the four patterns."""
        colour = {"R": 200, "G": 120, "B": 40}
        tile = np.array([[colour[c] for c in row] for row in (first_row, second_row)], np.uint8)
        mosaic = np.tile(tile, (8, 8))
        if bits == 16:
            mosaic = mosaic.astype("<u2") * 257
        inner = to_rgb(message(mosaic, f"{encoding}{bits}", padding))[2:-2, 2:-2]
        np.testing.assert_array_equal(inner, np.broadcast_to([200, 120, 40], inner.shape))

    @pytest.mark.parametrize(
        ("encoding", "order"),
        [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuyv", "YUYV"), ("yuv422_yuy2", "YUYV")],
    )
    def test_packed_yuv_is_understood(self, encoding: str, order: str) -> None:
        """A flat grey in YUV 4:2:2 is grey in RGB."""
        value = {"Y": 126, "U": 128, "V": 128}
        pair = np.array([[value[order[0]], value[order[1]]], [value[order[2]], value[order[3]]]])
        pixels = np.tile(pair.astype(np.uint8)[None], (4, 4, 1))
        picture = to_rgb(message(pixels, encoding))
        assert picture.shape == (4, 8, 3)
        assert np.abs(picture.astype(int) - 128).max() <= 3


def jpeg(quality: int = 95) -> bytes:
    """Return a JPEG of a smooth picture."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack(np.meshgrid(ramp, ramp), axis=2)
    picture = np.concatenate([picture, picture[..., :1]], axis=2)
    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_jpeg_is_decoded_to_rgb_as_pillow_does() -> None:
    """OpenCV's decoder and Pillow's agree within rounding."""
    picture = to_rgb(CompressedImage(format="rgb8; jpeg compressed bgr8", data=jpeg()))
    expected = np.asarray(Pillow.open(io.BytesIO(jpeg())))
    assert np.abs(picture.astype(int) - expected).max() <= 3


def test_png_is_decoded_exactly() -> None:
    """A lossless picture comes back as it was."""
    buffer = io.BytesIO()
    Pillow.fromarray(GRADIENT).save(buffer, "PNG")
    picture = to_rgb(CompressedImage(format="png", data=buffer.getvalue()))
    np.testing.assert_array_equal(picture, GRADIENT)


def test_a_picture_survives_the_way_to_a_message_and_back() -> None:
    """to_image_message is the inverse of to_rgb."""
    np.testing.assert_array_equal(to_rgb(to_image_message(GRADIENT, Image())), GRADIENT)


def broken(**changes: object) -> Image:
    """Return a good message with some fields changed."""
    raw = message(GRADIENT, "rgb8")
    for name, value in changes.items():
        setattr(raw, name, value)
    return raw


@pytest.mark.parametrize(
    ("raw", "field", "expected", "got"),
    [
        (broken(height=0), "image.height", "from 1", "0"),
        (broken(width=0), "image.width", "from 1", "0"),
        (broken(width=2**31), "image.width", "16384", str(2**31)),
        (broken(encoding="rgb9"), "image.encoding", "rgb8, bgr8", "'rgb9'"),
        (broken(encoding=""), "image.encoding", "rgb8, bgr8", "''"),
        (broken(encoding="16UC1"), "image.encoding", "mono16", "'16UC1'"),
        (broken(step=WIDTH * 3 - 1), "image.step", f"at least {WIDTH * 3}", str(WIDTH * 3 - 1)),
        (broken(step=0), "image.step", f"at least {WIDTH * 3}", "0"),
        (broken(encoding="yuyv", width=9), "image.width", "an even number", "9"),
        (broken(data=b""), "image.data", f"{HEIGHT * WIDTH * 3} bytes", "0 bytes"),
        (broken(data=b"1" * 179), "image.data", "180 bytes", "179 bytes"),
        (CompressedImage(format="jpeg"), "image.data", "a JPEG, PNG", "0 bytes"),
        (CompressedImage(format="jpeg", data=b"rubbish"), "image.data", "a JPEG, PNG", "72 75"),
        (CompressedImage(data=jpeg()[: len(jpeg()) // 2]), "image.data", "a whole JPEG", "cut off"),
        (
            CompressedImage(format="16UC1; compressedDepth", data=jpeg()),
            "image.format",
            "a colour image",
            "compressedDepth",
        ),
    ],
)
def test_a_malformed_image_is_refused_by_field(
    raw: Image | CompressedImage, field: str, expected: str, got: str
) -> None:
    """The error names the field, what was expected and what came."""
    with pytest.raises(InvalidInputError) as caught:
        to_rgb(raw, "image")
    assert caught.value.field == field
    assert expected in str(caught.value)
    assert got in str(caught.value)


def test_an_absent_image_is_told_from_a_broken_one() -> None:
    """Only a message with nothing in it counts as left out."""
    assert is_empty(Image())
    assert is_empty(CompressedImage(format="jpeg"))
    assert not is_empty(broken(height=0))
    assert not is_empty(Image(encoding="rgb8"))
