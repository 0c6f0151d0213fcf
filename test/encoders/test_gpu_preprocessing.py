"""The oracle is the preprocessor of CPUs. Without a GPU, the same code runs on the CPU."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from open_clip.transform import PreprocessCfg  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from vla_retrieval.encoders import gpu_preprocessing  # noqa: E402
from vla_retrieval.encoders.batching import BatchLimit  # noqa: E402
from vla_retrieval.encoders.gpu_preprocessing import GpuPreprocessor  # noqa: E402
from vla_retrieval.encoders.preprocessing import (  # noqa: E402
    PreprocessSpec,
    UInt8Preprocessor,
)

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def spec_of(cfg: PreprocessCfg) -> PreprocessSpec:
    return PreprocessSpec.from_open_clip(vars(cfg))


def steps_apart(spec: PreprocessSpec, images: list[np.ndarray]) -> np.ndarray:
    """Return how many steps of 255 pixels are from those of a CPU, ``(n, 3, h, w)``."""
    mine = GpuPreprocessor(spec, DEVICE).prepare(images)
    theirs = UInt8Preprocessor(spec).prepare(images)
    assert mine.device == DEVICE
    assert mine.dtype == theirs.dtype == torch.uint8
    assert mine.shape == theirs.shape
    return (mine.cpu().int() - theirs.int()).abs().numpy()


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [224, (192, 256)])
def test_pixels_equal_those_of_a_cpu_up_to_roundings(scene, size, mode):
    spec = spec_of(PreprocessCfg(size, resize_mode=mode, fill_color=77))
    images = [scene(480, 640), scene(720, 1280, seed=1), scene(90, 60, seed=2)]
    apart = steps_apart(spec, images)
    assert apart.max() <= 2
    assert apart.mean() < 0.02


@settings(max_examples=60)
@given(
    sizes=st.lists(
        st.sampled_from([(1, 1), (1, 40), (37, 3), (48, 64), (64, 48), (90, 90), (1, 4000)]),
        min_size=1, max_size=9,
    ),
    target=st.integers(1, 40), mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_mixture_of_sizes_is_prepared_in_order(sizes, target, mode, interpolation, seed):
    cfg = PreprocessCfg(target, resize_mode=mode, interpolation=interpolation, fill_color=9)
    made = np.random.default_rng(seed)
    images = [made.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    assert steps_apart(spec_of(cfg), images).max() <= 2


def test_many_images_of_one_size_go_in_chunks(scene, monkeypatch):
    spec = spec_of(PreprocessCfg(64))
    images = [scene(48, 64, seed=seed) for seed in range(7)]
    whole = GpuPreprocessor(spec, DEVICE).prepare(images)
    chunked = GpuPreprocessor(spec, DEVICE)
    whole_chunk = chunked._resizer(gpu_preprocessing._Kind.of(images[0])).chunk
    bytes_each = gpu_preprocessing._CHUNK_BYTES // whole_chunk
    monkeypatch.setattr(gpu_preprocessing, "_CHUNK_BYTES", 2 * bytes_each)
    uploads = []
    chunked = GpuPreprocessor(spec, DEVICE)
    upload = chunked._upload
    monkeypatch.setattr(chunked, "_upload", lambda s: (uploads.append(len(s)), upload(s))[1])
    assert torch.equal(chunked.prepare(images), whole)
    assert uploads == [2, 2, 2, 1]


def test_only_the_pixels_that_the_model_sees_are_uploaded(scene, monkeypatch):
    preprocessor = GpuPreprocessor(spec_of(PreprocessCfg(224)), DEVICE)
    uploads = []
    upload = preprocessor._upload
    monkeypatch.setattr(preprocessor, "_upload", lambda s: (uploads.append(s.shape), upload(s))[1])
    preprocessor.prepare([scene(720, 1280)])
    (shape,) = uploads
    assert shape[:2] == (1, 720)
    assert shape[2] < 760


def test_a_view_of_bgr_pixels_is_the_same_picture(scene):
    preprocessor = GpuPreprocessor(spec_of(PreprocessCfg(64)), DEVICE)
    image = scene(48, 80)
    bgr = np.ascontiguousarray(image[..., ::-1])
    read_only = np.frombuffer(bgr.tobytes(), np.uint8).reshape(bgr.shape)
    expected = preprocessor.prepare([image])
    for view in (bgr[..., ::-1], read_only[..., ::-1], image[::-1][::-1]):
        assert torch.equal(preprocessor.prepare([view]), expected)


def test_cameras_that_take_turns_are_prepared_once_and_forgotten_last_of_all(scene, monkeypatch):
    made = []
    original = gpu_preprocessing._Resizer

    class Counted(original):
        def __init__(self, spec, kind, device):
            made.append((kind.height, kind.width))
            super().__init__(spec, kind, device)

    monkeypatch.setattr(gpu_preprocessing, "_Resizer", Counted)
    monkeypatch.setattr(gpu_preprocessing, "_KNOWN_SIZES", 2)
    preprocessor = GpuPreprocessor(spec_of(PreprocessCfg(32)), DEVICE)
    first, second, third = scene(40, 50), scene(50, 40), scene(33, 34)
    for image in (first, second, first, second, third, second, first):
        preprocessor.prepare([image])
    assert made == [(40, 50), (50, 40), (33, 34), (40, 50)]


def test_a_size_that_is_forgotten_leaves_nothing_behind(scene, monkeypatch):
    """A GPU's memory must not wait for the garbage collector, which knows nothing of it."""
    monkeypatch.setattr(gpu_preprocessing, "_KNOWN_SIZES", 1)
    preprocessor = GpuPreprocessor(spec_of(PreprocessCfg(32)), DEVICE)
    gc.disable()
    try:
        preprocessor.prepare([scene(40, 50)])
        (forgotten,) = (weakref.ref(resizer) for resizer in preprocessor._resizers.values())
        preprocessor.prepare([scene(50, 40)])
        assert forgotten() is None
    finally:
        gc.enable()


def test_what_the_memory_does_not_do_for_is_said(scene, monkeypatch):
    preprocessor = GpuPreprocessor(spec_of(PreprocessCfg(32)), DEVICE)
    images = [scene(40, 50, seed=seed) for seed in range(4)]
    expected = preprocessor.prepare(images)
    assert preprocessor.warning == ""
    (resizer,) = preprocessor._resizers.values()
    resize = resizer._resize

    def crowded(pixels):
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return resize(pixels)

    monkeypatch.setattr(resizer, "_resize", crowded)
    monkeypatch.setattr(resizer, "limit", BatchLimit("resizing", str(DEVICE), 4, "send less"))
    assert torch.equal(preprocessor.prepare(images), expected)
    assert "at most 2 inputs" in preprocessor.warning
    assert "send less" in preprocessor.warning


def test_normalised_pixels_equal_those_of_a_cpu(scene):
    spec = spec_of(PreprocessCfg(32))
    prepared = UInt8Preprocessor(spec).prepare([scene(40, 50)])
    theirs = UInt8Preprocessor(spec).normalize(prepared)
    mine = GpuPreprocessor(spec, DEVICE).normalize(prepared.to(DEVICE)).cpu()
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


def test_normalising_where_the_model_runs_copies_nothing_from_the_cpu():
    """A recorded CUDA graph refuses such a copy; ``meta`` is the device that every machine has."""

    class NoCopy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            places = {a.device.type for a in args if isinstance(a, torch.Tensor)}
            assert "cpu" not in places, f"{func} of a tensor on the CPU"
            return func(*args, **(kwargs or {}))

    there = torch.device("meta")
    preprocessor = GpuPreprocessor(spec_of(PreprocessCfg(size=32)), there)
    prepared = preprocessor.example(there)
    with torch.inference_mode(), NoCopy():
        normalised = preprocessor.normalize(prepared)
    assert (normalised.device, normalised.dtype) == (there, torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_single_frame_is_replayed_as_a_graph(scene):
    preprocessor = GpuPreprocessor(spec_of(PreprocessCfg(224)), DEVICE)
    images = [scene(480, 640, seed=seed) for seed in range(3)]
    together = preprocessor.prepare(images)
    (resizer,) = preprocessor._resizers.values()
    for image, row in zip(images, together, strict=True):
        assert (preprocessor.prepare([image])[0].int() - row.int()).abs().max() <= 1
    assert resizer._resize.shapes, "from the second one on"
