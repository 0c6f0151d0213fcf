"""The oracle is torch's own filter for uint8 on a CPU."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torchvision.transforms import InterpolationMode  # noqa: E402
from torchvision.transforms.v2 import functional  # noqa: E402

from vla_retrieval.encoders.resampling import Axis, Resampling  # noqa: E402

CPU = torch.device("cpu")
MODES = ("bicubic", "bilinear")


def resized(pixels: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Resize uint8 ``(h, w, 3)`` with what is tested, whole."""
    down = Axis(pixels.shape[0], size[0], slice(0, size[0]), mode)
    across = Axis(pixels.shape[1], size[1], slice(0, size[1]), mode)
    resample = Resampling(down, across, CPU)
    return resample(pixels[None, resample.rows, resample.columns])[0]


def expected(pixels: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    return functional.resize(
        pixels.permute(2, 0, 1), list(size), interpolation=InterpolationMode(mode), antialias=True
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (60, 50), (1280, 720)])
def test_pixels_equal_those_of_a_cpu_up_to_roundings(scene, size, mode):
    pixels = torch.from_numpy(scene(*size))
    mine, theirs = resized(pixels, (224, 298), mode), expected(pixels, (224, 298), mode)
    assert mine.dtype == theirs.dtype == torch.uint8
    apart = (mine.int() - theirs.int()).abs()
    assert apart.max() <= 2
    assert apart.float().mean() < 0.02


@settings(max_examples=80)
@given(
    source=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    mode=st.sampled_from(MODES), seed=st.integers(0, 1000),
)  # fmt: skip
def test_pixels_of_noise_are_at_most_two_steps_apart_for_any_size(source, target, mode, seed):
    made = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (*source, 3), dtype=torch.uint8, generator=made)
    apart = resized(pixels, target, mode).int() - expected(pixels, target, mode).int()
    assert apart.abs().max() <= 2


@settings(max_examples=120)
@given(
    size=st.integers(1, 600), resized_to=st.integers(1, 300),
    where=st.tuples(st.integers(0, 300), st.integers(0, 300)), mode=st.sampled_from(MODES),
)  # fmt: skip
def test_weights_are_those_that_torch_resizes_with(size, resized_to, where, mode):
    """Read off by resizing an identity matrix; and no source pixel is missing."""
    first, last = sorted(min(at, resized_to) for at in where)
    part = slice(first, max(last, first + 1)) if first < resized_to else slice(0, 1)
    pixels, weights = Axis(size, resized_to, part, mode).weights
    mine = torch.zeros((size, part.stop - part.start), dtype=torch.float64)
    mine[pixels] = weights
    identity = torch.eye(size, dtype=torch.float64)[None, None]
    theirs = torch.nn.functional.interpolate(
        identity, (size, resized_to), mode=mode, antialias=True
    )[0, 0, :, part]
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-12)


def test_one_pass_in_floats_is_further_from_the_cpu_than_two(scene):
    pixels = torch.from_numpy(scene(720, 1280))
    theirs = expected(pixels, (224, 398), "bicubic").int()
    once = torch.nn.functional.interpolate(
        pixels.permute(2, 0, 1)[None].float(), (224, 398), mode="bicubic", antialias=True
    )
    once = once[0].round().clamp(0, 255).int()
    twice = resized(pixels, (224, 398), "bicubic").int()
    assert (twice != theirs).float().mean() < (once != theirs).float().mean() / 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (60, 50)])
def test_a_gpu_in_halves_finds_what_a_cpu_does(scene, size, mode):
    pixels = torch.from_numpy(scene(*size))
    there = torch.device("cuda", 0)
    down = Axis(size[0], 224, slice(0, 224), mode)
    across = Axis(size[1], 298, slice(37, 261), mode)
    resample = Resampling(down, across, there)
    assert resample._across.dtype == torch.float16
    many = pixels[None, resample.rows, resample.columns].expand(3, -1, -1, -1).to(there)
    apart = resample(many).cpu().int() - expected(pixels, (224, 298), mode)[:, :, 37:261].int()
    assert apart.abs().max() <= 2
    assert apart.abs().float().mean() < 0.02
