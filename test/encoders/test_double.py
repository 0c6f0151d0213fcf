from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from vla_retrieval.encoders import DoubleEncoder, EncoderSettings, load_encoder
from vla_retrieval.errors import InvalidInputError


def plain(colour: tuple[int, int, int], height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture
def double() -> DoubleEncoder:
    return DoubleEncoder()


def test_double_gives_unit_float32_rows_of_its_dimension(double):
    images = double.encode_images([plain((200, 10, 10)), plain((0, 0, 0), 1, 1)])
    texts = double.encode_instructions(["pick up the cup", "拿起桌子上的杯子", "x"])
    assert images.shape == (2, double.dim)
    assert texts.shape == (3, double.dim)
    for rows in (images, texts):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_double_gives_no_rows_for_no_input(double):
    assert double.encode_images([]).shape == (0, double.dim)
    assert double.encode_instructions([]).shape == (0, double.dim)


def test_double_gives_the_same_vectors_in_another_process(double):
    code = (
        "import numpy as np; from vla_retrieval.encoders import DoubleEncoder; e = DoubleEncoder();"
        "print(e.fingerprint);"
        "print(e.encode_instructions(['red cup']).tobytes().hex());"
        "print(e.encode_images([np.full((9, 9, 3), 77, np.uint8)]).tobytes().hex())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert other[0] == str(double.fingerprint)
    assert other[1] == double.encode_instructions(["red cup"]).tobytes().hex()
    assert other[2] == double.encode_images([np.full((9, 9, 3), 77, np.uint8)]).tobytes().hex()


def test_double_puts_near_texts_near(double):
    cup, same, other = double.encode_instructions(
        ["pick up the cup", "pick up the cups", "drive to the charging station"]
    )
    assert cup @ same > 0.8 > cup @ other


def test_double_puts_near_images_near(double, scene):
    a, b = scene(48, 64, seed=1), scene(48, 64, seed=2)
    brighter = (a.astype(int) + 4).clip(0, 255).astype(np.uint8)
    first, near, far = double.encode_images([a, brighter, b])
    assert first @ near > 0.98
    assert first @ near > first @ far


@pytest.mark.parametrize(("word", "chinese", "colour"), [
    ("red", "红", (210, 20, 25)), ("blue", "蓝", (20, 50, 220)), ("green", "绿", (20, 180, 40)),
])  # fmt: skip
def test_double_finds_the_image_whose_colour_the_text_names(double, word, chinese, colour):
    colours = [(210, 20, 25), (20, 50, 220), (20, 180, 40), (10, 10, 10), (250, 250, 250)]
    images = double.encode_images([plain(c) for c in colours])
    texts = double.encode_instructions([f"pick up the {word} cup", f"拿起{chinese}色的杯子"])
    assert (texts @ images.T).argmax(axis=1).tolist() == [colours.index(colour)] * 2


def test_double_refuses_what_an_encoder_refuses(double):
    with pytest.raises(InvalidInputError, match=r"images\[1\]: expected a uint8 array"):
        double.encode_images([plain((1, 2, 3)), np.zeros((0, 4, 3), np.uint8)])
    with pytest.raises(InvalidInputError, match="instruction: expected text"):
        double.encode_instructions(["  "])


def test_double_is_loaded_by_its_name():
    assert isinstance(load_encoder(EncoderSettings(model="double")), DoubleEncoder)


def test_encoders_import_and_the_double_works_where_torch_is_missing():
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'open_clip'): sys.modules[name] = None\n"
        "from vla_retrieval.encoders import *\n"
        "from vla_retrieval.errors import EncoderError\n"
        "assert load_encoder(EncoderSettings(model='double')).dim\n"
        "try: load_encoder(EncoderSettings(model='ViT-B-32', checkpoint='x.safetensors'))\n"
        "except EncoderError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install torch" in run.stdout
