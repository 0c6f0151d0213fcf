"""The oracle is the convolution."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")

from vla_retrieval.encoders.patches import PatchProduct, is_patches, use_products  # noqa: E402


@pytest.mark.parametrize(
    ("kernel", "image", "bias"),
    [((8, 8), (32, 32), True), ((16, 8), (64, 40), False), ((14, 14), (45, 60), True)],
)
def test_a_product_computes_what_the_convolution_computes(kernel, image, bias):
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 20, kernel, stride=kernel, bias=bias)
    assert is_patches(convolution)
    images = torch.randn(2, 3, *image)
    with torch.inference_mode():
        expected, got = convolution(images), PatchProduct(convolution)(images)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Linear(8, 8),
        torch.nn.Conv2d(3, 8, 16, stride=8),
        torch.nn.Conv2d(3, 8, 16, stride=16, padding=1),
        torch.nn.Conv2d(4, 8, 16, stride=16, groups=2),
        torch.nn.Conv2d(3, 8, 16, stride=16, dilation=2),
        torch.nn.Conv2d(3, 8, 4, stride=4),
    ],
)
def test_other_layers_are_left_alone(module):
    assert not is_patches(module)
    assert use_products(torch.nn.Sequential(module)) == 0


class Padding(torch.nn.Conv2d):
    """Pads what does not fill a patch, as timm's `Conv2dSame` does."""


def test_layers_that_do_more_than_a_convolution_are_left_alone():
    assert not is_patches(Padding(3, 8, 16, stride=16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this form of it is old, and models have it
        normed = torch.nn.utils.weight_norm(torch.nn.Conv2d(3, 8, 16, stride=16))
    assert not is_patches(normed)


def test_a_model_of_open_clip_computes_the_same_with_products():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(
        16, {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 48},
        {"layers": 1, "width": 32, "heads": 2, "vocab_size": 100, "context_length": 8},
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        expected = model.encode_image(images)
        assert use_products(model) == 1
        got = model.encode_image(images)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
