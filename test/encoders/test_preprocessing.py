"""The oracle is open_clip's own transform on a PIL image."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vla_retrieval.errors import EncoderError

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision.transforms.v2 import functional  # noqa: E402

from vla_retrieval.encoders.preprocessing import (  # noqa: E402
    PilPreprocessor,
    PreprocessSpec,
    UInt8Preprocessor,
    resized_size,
)
from vla_retrieval.encoders.preprocessor_choice import make_preprocessor  # noqa: E402

STEPS = {"bicubic": 2, "bilinear": 1}
"""Largest difference of a pixel, in steps of 255; the filters' weights are rounded differently."""

SHARE = 0.05
"""Largest share of pixels that differ at all, on noise, for images of a usual size."""

SIZES = [
    (1, 1), (1, 7), (5, 3), (31, 17), (223, 224), (224, 224), (225, 223), (480, 640), (640, 480),
    (481, 639), (720, 1280), (40, 900), (900, 40),
]  # fmt: skip


def spec_of(cfg: PreprocessCfg) -> PreprocessSpec:
    return PreprocessSpec.from_open_clip(vars(cfg))


@pytest.fixture
def _horizontal_first(monkeypatch):
    """Make PIL filter horizontally first, as every Pillow before 13 does.

    Pillow 13 filters some shapes vertically first (python-pillow/Pillow#9549).
    """
    original = Image.Image.resize

    def resize(self, size, resample=None, *args, **kwargs):
        if args or kwargs:
            return original(self, size, resample, *args, **kwargs)
        return original(original(self, (size[0], self.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", resize)


def steps_apart(cfg: PreprocessCfg, image: np.ndarray) -> np.ndarray:
    """Return how many of 255 steps each pixel is from open_clip's, before normalisation."""
    theirs = image_transform_v2(cfg, is_train=False)(Image.fromarray(image))
    preprocessor = UInt8Preprocessor(spec_of(cfg))
    ours = preprocessor.normalize(preprocessor.prepare([image]))[0]
    assert ours.dtype == theirs.dtype == torch.float32
    assert ours.shape == theirs.shape
    std = torch.tensor(cfg.std).view(3, 1, 1)
    return ((ours - theirs) * std * 255).abs().numpy()


@pytest.mark.usefixtures("_horizontal_first")
@pytest.mark.parametrize("size", [224, (192, 256)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_those_of_open_clip(size, mode, interpolation):
    cfg = PreprocessCfg(size, interpolation=interpolation, resize_mode=mode, fill_color=100)
    steps = STEPS[spec_of(cfg).filter.value]
    rng = np.random.default_rng(3)
    for height, width in SIZES if size == 224 else SIZES[1::2]:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        apart = steps_apart(cfg, image)
        assert apart.max() < steps + 0.01, (height, width)
        assert (apart > 0.5).mean() < SHARE, (height, width)


@pytest.mark.usefixtures("_horizontal_first")
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300),
    target=st.tuples(st.integers(1, 64), st.integers(1, 64)) | st.integers(1, 64),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_pixels_equal_those_of_open_clip_for_any_size(
    height, width, target, mode, interpolation, seed
):
    cfg = PreprocessCfg(
        target, interpolation=interpolation, resize_mode=mode, fill_color=seed % 256
    )
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    try:
        apart = steps_apart(cfg, image)
    except ValueError as error:  # open_clip rounds a side to zero; ours keeps one pixel
        assert "must be > 0" in str(error)  # noqa: PT017
        return
    assert apart.max() < STEPS[spec_of(cfg).filter.value] + 0.01


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1280, 720)])
def test_camera_images_equal_those_of_the_pillow_that_is_installed(scene, size, mode):
    cfg = PreprocessCfg(224, resize_mode=mode)
    apart = steps_apart(cfg, scene(*size))
    # Pillow 13 squashes a tall image in another order: other roundings, and clipped overshoots
    # at the few hard edges.
    assert apart.mean() < 0.2
    assert (apart > 2.01).mean() < 0.001


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 400), width=st.integers(1, 400), target=st.integers(1, 96),
    mode=st.sampled_from(["bicubic", "bilinear"]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_middle_is_the_same_whether_the_rest_is_resized_or_not(
    height, width, target, mode, seed
):
    spec = spec_of(PreprocessCfg(target, interpolation=mode, resize_mode="shortest"))
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    new_height, new_width = resized_size(spec, height, width)
    assume(new_height * new_width <= 16 * target * target)  # else Pillow resizes it
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    whole = functional.resize(
        pixels, [new_height, new_width], interpolation=spec.filter, antialias=True
    )
    top, left = round((new_height - target) / 2), round((new_width - target) / 2)
    middle = whole[:, top : top + target, left : left + target]
    assert torch.equal(UInt8Preprocessor(spec).prepare([image])[0], middle)


def test_image_that_would_grow_without_bound_is_cut_before_it_grows():
    cfg = PreprocessCfg(224)
    spec = spec_of(cfg)
    line = np.random.default_rng(0).integers(0, 256, (1, 100_000, 3), dtype=np.uint8)
    assert resized_size(spec, 1, 100_000) == (224, 22_400_000)
    pixels = UInt8Preprocessor(spec).prepare([line])
    # 224 columns fit one source pixel exactly: the middle two of the line fill the crop.
    assert pixels.shape == (1, 3, 224, 224)
    middle = line[0, 49_998:50_002].astype(int)
    assert pixels[0, :, 0, :].numpy().min() >= middle.min() - 40
    column = pixels[0, :, :, 0]
    assert bool((column == column[:, :1]).all())


def test_side_that_rounds_to_nothing_stays_one_pixel():
    preprocessor = UInt8Preprocessor(
        spec_of(PreprocessCfg(32, resize_mode="longest", fill_color=9))
    )
    pixels = preprocessor.prepare([np.full((1, 1000, 3), 200, np.uint8)])[0].numpy()
    assert (pixels == 200).any(axis=(0, 2)).sum() == 1
    assert set(np.unique(pixels)) == {9, 200}


def test_images_of_different_sizes_are_prepared_as_if_alone(scene):
    preprocessor = UInt8Preprocessor(spec_of(PreprocessCfg(64)))
    images = [scene(48, 64), scene(300, 20), scene(64, 64)]
    together = preprocessor.prepare(images)
    for row, image in zip(together, images, strict=True):
        assert torch.equal(row, preprocessor.prepare([image])[0])


def test_views_and_read_only_images_are_taken_without_a_warning(scene):
    preprocessor = UInt8Preprocessor(spec_of(PreprocessCfg(64)))
    image = scene(100, 120)
    expected = preprocessor.prepare([image])
    received = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)  # as from a message
    padded = np.zeros((100, 130, 3), np.uint8)
    padded[:, :120] = image
    bgr = np.ascontiguousarray(image[..., ::-1])
    before = [view.copy() for view in (received, padded, bgr)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for view in (received, padded[:, :120], bgr[..., ::-1], image[::-1][::-1]):
            assert torch.equal(preprocessor.prepare([view]), expected)
    for view, copy in zip((received, padded, bgr), before, strict=True):
        np.testing.assert_array_equal(view, copy)


def test_mode_that_is_not_known_falls_back_to_open_clip(scene, monkeypatch):
    from vla_retrieval.encoders import preprocessing

    monkeypatch.setattr(preprocessing, "_MODES", ("shortest",))
    cfg = PreprocessCfg(64, resize_mode="longest")
    preprocessor = make_preprocessor(spec_of(cfg))
    assert isinstance(preprocessor, PilPreprocessor)
    image = scene(50, 90)
    ours = preprocessor.normalize(preprocessor.prepare([image]))[0]
    assert torch.equal(ours, image_transform_v2(cfg, is_train=False)(Image.fromarray(image)))


def test_mode_that_nobody_knows_is_refused():
    with pytest.raises(EncoderError, match=r"cannot preprocess as the model asks.*'diagonal'"):
        make_preprocessor(spec_of(PreprocessCfg(64, resize_mode="diagonal")))


@pytest.mark.parametrize("cfg", [{}, {**vars(PreprocessCfg()), "mean": [0.5, 0.5]}])
def test_damaged_preprocessing_is_refused_with_what_was_expected(cfg):
    with pytest.raises(EncoderError, match="expected size, mean, std"):
        PreprocessSpec.from_open_clip(cfg)


def test_description_names_all_that_changes_a_pixel_and_nothing_else():
    base = spec_of(PreprocessCfg(224))
    changes = [
        PreprocessCfg(256), PreprocessCfg(224, mean=(0.5, 0.5, 0.5)),
        PreprocessCfg(224, std=(0.5, 0.5, 0.5)), PreprocessCfg(224, interpolation="bilinear"),
        PreprocessCfg(224, resize_mode="squash"), PreprocessCfg(224, resize_mode="longest"),
        PreprocessCfg(224, resize_mode="longest", fill_color=7),
    ]  # fmt: skip
    texts = {str(base), *(str(spec_of(cfg)) for cfg in changes)}
    assert len(texts) == len(changes) + 1
    assert str(spec_of(PreprocessCfg(224, fill_color=7, interpolation="random"))) == str(base)
    assert str(spec_of(PreprocessCfg((224, 224)))) == str(base)
