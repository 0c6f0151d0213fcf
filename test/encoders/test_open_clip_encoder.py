"""The oracle is open_clip's own path: ``model.encode_image(preprocess(pil_image))``."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.encoders import DEMO_MODEL, EncoderSettings, load_encoder
from vla_retrieval.errors import EncoderError, InvalidInputError

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402
from PIL import Image  # noqa: E402

TEXTS = ["pick up the cup on the table", "拿起桌子上的杯子", "a", "PUT the Red block — there!"]
SIZES = [(480, 640), (64, 48), (33, 32), (1, 1), (20, 300), (32, 32), (97, 31)]


def open_clip_images(model, images):
    transform = image_transform_v2(
        PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), is_train=False
    )
    batch = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.no_grad():
        return model.encode_image(batch, normalize=True).numpy()


def open_clip_texts(model, name, texts):
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(name)(list(texts))
        return model.encode_text(tokens, normalize=True).numpy()


def test_instructions_equal_those_of_open_clip(load, tiny):
    ours = load(batch_size=3).encode_instructions(TEXTS)
    theirs = open_clip_texts(tiny.model, tiny.name, TEXTS)
    assert (ours * theirs).sum(axis=1) == pytest.approx(1.0, abs=1e-6)


def test_images_equal_those_of_open_clip(load, tiny, scene):
    images = [scene(*size, seed=i) for i, size in enumerate(SIZES)]
    ours, theirs = load(batch_size=3).encode_images(images), open_clip_images(tiny.model, images)
    assert ((ours * theirs).sum(axis=1) > 0.9999).all()


def test_embeddings_are_unit_float32_rows_of_the_dimension(encoder, scene):
    for rows in (encoder.encode_images([scene(9, 9)] * 2), encoder.encode_instructions(["a", "b"])):
        assert rows.dtype == np.float32
        assert rows.shape == (2, encoder.dim) == (2, 16)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_no_input_gives_no_rows(encoder):
    assert encoder.encode_images([]).shape == (0, 16)
    assert encoder.encode_instructions([]).shape == (0, 16)


def test_batch_gives_what_each_image_gives_alone(load, scene):
    encoder = load(batch_size=2)
    images = [scene(*size, seed=i) for i, size in enumerate(SIZES)]
    together = encoder.encode_images(images)
    alone = np.concatenate([encoder.encode_images([image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_array_of_images_is_a_sequence_of_images(load, scene):
    encoder = load(batch_size=2)
    images = np.stack([scene(24, 24, seed=i) for i in range(3)])
    np.testing.assert_array_equal(encoder.encode_images(images), encoder.encode_images([*images]))


def test_repeated_instruction_is_computed_once_and_cannot_be_spoilt(load, monkeypatch):
    encoder = load()
    calls: list[int] = []
    original = encoder._engine.embed_tokens

    def count(tokens):
        calls.append(len(tokens))
        return original(tokens)

    monkeypatch.setattr(encoder._engine, "embed_tokens", count)
    first = encoder.encode_instructions(["cup", "cup", "block"])
    expected = first.copy()
    first[:] = 0.0
    second = encoder.encode_instructions(["block", "cup"])
    np.testing.assert_array_equal(second, expected[[2, 0]])
    assert calls == [2]


def test_more_instructions_than_the_cache_holds_are_all_embedded(load, tiny):
    texts = [f"move block {i}" for i in range(10)]
    encoder = load(cached_instructions=3, batch_size=4)
    theirs = open_clip_texts(tiny.model, tiny.name, texts)
    for _ in range(2):
        np.testing.assert_allclose(encoder.encode_instructions(texts), theirs, atol=1e-5)


@pytest.mark.parametrize("image", [
    np.zeros((0, 5, 3), np.uint8), np.zeros((5, 0, 3), np.uint8), np.zeros((5, 5), np.uint8),
    np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 1), np.uint8), np.zeros((3, 5, 5), np.uint8),
    np.zeros((5, 5, 3), np.float32), np.zeros((1, 5, 5, 3), np.uint8), [[[0, 0, 0]]], None,
])  # fmt: skip
def test_bad_image_is_refused_by_its_place(encoder, scene, image):
    with pytest.raises(InvalidInputError, match=r"images\[1\]: expected a uint8 array") as caught:
        encoder.encode_images([scene(4, 4), image])
    assert caught.value.field == "images[1]"


@pytest.mark.parametrize("text", ["", " \n", "x" * 100_000, "\ud800", None, 3])
def test_bad_instruction_is_refused(encoder, text):
    with pytest.raises(InvalidInputError, match="instruction: expected"):
        encoder.encode_instructions(["fine", text])


def test_single_string_is_not_taken_for_a_list_of_letters(encoder):
    with pytest.raises(InvalidInputError, match=r"Wrap it in \[\]"):
        encoder.encode_instructions("cup")


def test_long_instruction_is_cut_as_open_clip_cuts_it_and_said_once(load, tiny, caplog):
    long = [" ".join(f"step {i} go" for i in range(n)) for n in (30, 40, 2000 // 11)]
    encoder = load()
    theirs = open_clip_texts(tiny.model, tiny.name, long)
    np.testing.assert_allclose(encoder.encode_instructions(long), theirs, atol=1e-5)
    warnings = [r for r in caplog.records if "was cut" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].levelno == logging.WARNING


def test_instruction_that_fits_exactly_is_not_called_cut(encoder):
    fits = encoder.context_length - 2  # start and end take one token each
    assert not encoder.truncates(" ".join(["cup"] * fits))
    assert encoder.truncates(" ".join(["cup"] * (fits + 1)))
    assert not encoder.truncates("cup")


def test_word_of_ten_thousand_letters_is_cut_before_it_is_split(load):
    letters = np.random.default_rng(0).integers(97, 123, 10_000).astype(np.uint8).tobytes().decode()
    encoder = load()
    seen: list[int] = []
    original = encoder._tokenizer._tokenizer

    def spy(texts, context_length):
        seen.extend(map(len, texts))
        return original(texts, context_length=context_length)

    encoder._tokenizer._tokenizer = spy
    assert encoder.encode_instructions([letters]).shape == (1, 16)
    assert max(seen) <= 2 * 16 * encoder.context_length


def test_white_space_does_not_push_an_instruction_out(encoder):
    plain, spread = encoder.encode_instructions(["lift the cup", " " * 4000 + "lift the   cup"])
    np.testing.assert_array_equal(plain, spread)


def test_tokenizer_forgets_words_before_they_fill_the_memory(load, monkeypatch):
    from vla_retrieval.encoders import tokenizing

    monkeypatch.setattr(tokenizing, "_WORDS_KEPT", 10)
    encoder = load(cached_instructions=0)
    expected = encoder.encode_instructions(["lift the cup"])
    for i in range(20):
        encoder.encode_instructions([f"wo{chr(97 + i)}rd cup{chr(97 + i)}"])
    assert len(encoder._tokenizer._tokenizer.cache) <= 12
    np.testing.assert_array_equal(encoder.encode_instructions(["lift the cup"]), expected)


def test_concurrent_calls_give_what_single_calls_give(load, scene):
    encoder = load(cached_instructions=4)
    images = [scene(40 + i, 60, seed=i) for i in range(6)]
    texts = [f"lift block {i}" for i in range(6)]
    expected = encoder.encode_images(images), encoder.encode_instructions(texts)
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for i in range(start, start + 12):
                image = encoder.encode_images([images[i % 6]])[0]
                text = encoder.encode_instructions([texts[i % 6]])[0]
                np.testing.assert_allclose(image, expected[0][i % 6], atol=1e-5)
                np.testing.assert_allclose(text, expected[1][i % 6], atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_fp32_and_keeps_the_fingerprint(encoder, load, scene, precision):
    exact, half = encoder, load(precision=precision)
    assert half.precision == precision
    assert half.fingerprint == exact.fingerprint
    image = scene(64, 64)
    assert (exact.encode_images([image]) @ half.encode_images([image]).T).item() > 0.9995
    texts = exact.encode_instructions(TEXTS), half.encode_instructions(TEXTS)
    assert ((texts[0] * texts[1]).sum(axis=1) > 0.9995).all()
    np.testing.assert_allclose(np.linalg.norm(texts[1], axis=1), 1.0, atol=1e-6)


def test_loading_does_not_shift_a_seeded_run(load):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load()
    assert torch.equal(torch.rand(4), expected)


def test_warm_up_leaves_no_trace(load):
    encoder = load()
    encoder.warm_up()
    assert len(encoder._cache) == 0


def test_embedding_that_is_not_finite_is_an_error_and_not_a_vector(load, monkeypatch):
    encoder = load()
    monkeypatch.setattr(
        encoder._engine, "embed_tokens", lambda tokens: torch.full((len(tokens), 16), torch.nan)
    )
    with pytest.raises(EncoderError, match=r"not finite.*Set precision to bf16 or fp32"):
        encoder.encode_instructions(["cup"])
    assert len(encoder._cache) == 0


@pytest.mark.parametrize("kind", [RuntimeError, Exception])  # of torch and of ONNX Runtime
def test_runtime_that_fails_is_an_error_that_names_the_model(load, monkeypatch, scene, kind):
    encoder = load()

    def fail(prepared):
        raise kind("bad allocation")

    monkeypatch.setattr(encoder._engine, "embed_pixels", fail)
    with pytest.raises(EncoderError, match=r"tiny-clip failed on 1 inputs on cpu: bad allocation"):
        encoder.encode_images([scene(8, 8)])


def test_device_that_runs_out_of_memory_gets_smaller_batches_and_then_says_what_to_lower(
    load, monkeypatch, scene
):
    encoder, room = load(), 2
    images = [scene(8, 8 + n) for n in range(5)]
    expected = encoder.encode_images(images)
    embed = encoder._engine.embed_pixels

    def crowded(prepared):
        if len(prepared) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return embed(prepared)

    monkeypatch.setattr(encoder._engine, "embed_pixels", crowded)
    assert encoder.warning == ""
    np.testing.assert_allclose(encoder.encode_images(images), expected, atol=1e-5)
    assert "at most 2 inputs" in encoder.warning
    room = 0
    with pytest.raises(EncoderError, match=r"cpu ran out of memory.*a batch of 1.*smaller"):
        encoder.encode_images(images)
    assert encoder.encode_instructions(["cup"]).shape == (1, encoder.dim)


class Elsewhere:
    """An engine that says it is on a GPU, and runs where the other one runs."""

    device = "cuda:0"

    def __init__(self, engine):
        self.embed_pixels = engine.embed_pixels


def test_batches_that_are_prepared_ahead_come_in_their_order(load, scene):
    encoder = load(batch_size=2)
    images = [scene(*size, seed=i) for i, size in enumerate(SIZES)]
    expected = encoder.encode_images(images)
    encoder._engine = Elsewhere(encoder._engine)
    np.testing.assert_allclose(encoder.encode_images(images), expected, atol=1e-6)
    assert encoder.encode_images([]).shape == (0, 16)


def test_a_batch_that_a_pass_left_no_room_for_is_prepared_after_it(load, scene, monkeypatch):
    encoder = load(batch_size=1)
    images = [scene(40, 50, seed=seed) for seed in range(4)]
    expected = encoder.encode_images(images)
    encoder._engine = Elsewhere(encoder._engine)
    prepare, threads = encoder._preprocessor.prepare, []

    def crowded(batch):
        threads.append(threading.current_thread().name)
        if threads[-1].startswith("prepare") and len(threads) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return prepare(batch)

    monkeypatch.setattr(encoder._preprocessor, "prepare", crowded)
    np.testing.assert_allclose(encoder.encode_images(images), expected, atol=1e-6)
    assert threads.count("MainThread") == 3


def test_a_pass_that_fails_leaves_nobody_preparing(load, scene, monkeypatch):
    encoder = load(batch_size=1)
    encoder._engine = Elsewhere(encoder._engine)

    def fail(prepared):
        raise RuntimeError("defect")

    monkeypatch.setattr(encoder._engine, "embed_pixels", fail)
    with pytest.raises(EncoderError, match="defect"):
        encoder.encode_images([scene(40, 50)] * 3)
    assert not [t for t in threading.enumerate() if t.name.startswith("prepare")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives(load, scene):
    images = [scene(*size, seed=i) for i, size in enumerate(SIZES)]
    cpu, gpu = load(), load(device="cuda", precision="auto")
    assert gpu.device == "cuda:0"
    assert gpu.precision == "fp16"
    assert gpu.fingerprint == cpu.fingerprint
    assert gpu._engine._embed_pixels.shapes, "single images are replayed"
    for mine, theirs in (
        (cpu.encode_images(images), gpu.encode_images(images)),
        (cpu.encode_images(images[:1]), gpu.encode_images(images[:1])),
        (cpu.encode_instructions(TEXTS), gpu.encode_instructions(TEXTS)),
    ):
        assert ((mine * theirs).sum(axis=1) > 0.9995).all()


def preprocessing_error(encoder, images) -> float:
    """Return the mean distance to open_clip's embeddings, over that between images."""
    model = encoder._engine._model
    ours, theirs = encoder.encode_images(images), open_clip_images(model, images)
    distances = np.linalg.norm(theirs[:, None] - theirs[None], axis=2)
    between = distances[np.triu_indices(len(images), 1)].mean()
    return float(np.linalg.norm(ours - theirs, axis=1).mean() / between)


@pytest.mark.parametrize("size", [(480, 640), (720, 1280)])
def test_preprocessing_moves_embeddings_of_the_shipped_model_by_a_thousandth(scene, size):
    if not (Path(__file__).parents[2] / "demo" / "model" / f"{DEMO_MODEL}.safetensors").is_file():
        pytest.skip("the large files of the repository were not fetched")
    encoder = load_encoder(EncoderSettings(device="cpu", engine="torch"))
    assert encoder.fingerprint.model == DEMO_MODEL
    assert preprocessing_error(encoder, [scene(*size, seed=i) for i in range(5)]) < 0.001


@pytest.mark.slow
def test_vit_b_32_equals_open_clip_at_its_full_size(tmp_path, scene):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(
        EncoderSettings(
            model="ViT-B-32", checkpoint=str(tmp_path / "w.safetensors"), device="cpu",
            engine="torch",
        )
    )  # fmt: skip
    images = [scene(480, 640, seed=i) for i in range(4)]
    assert ((encoder.encode_images(images) * open_clip_images(model, images)).sum(1) > 0.9999).all()
    texts = open_clip_texts(model, "ViT-B-32", TEXTS)
    assert (encoder.encode_instructions(TEXTS) * texts).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_images_that_the_device_has_no_memory_to_resize_are_an_error_that_says_so(load, scene):
    encoder = load()

    class Full:
        def prepare(self, images):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    encoder._preprocessor = Full()
    with pytest.raises(EncoderError, match=r"cannot resize 2 images of 40x30.*out of memory"):
        encoder.encode_images([scene(30, 40), scene(30, 40)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_is_nearly_full_gets_smaller_batches(load, scene):
    images = [scene(480, 640, seed=seed) for seed in range(6)] * 64
    encoder = load(device="cuda", precision="fp32", batch_size=384)
    expected = encoder.encode_images(images)
    encoder = load(device="cuda", precision="fp32", batch_size=384)
    encoder.encode_images(images[:1])
    torch.cuda.empty_cache()
    held = []
    try:
        while (free := torch.cuda.mem_get_info()[0] - (300 << 20)) > 2 << 20:
            held.append(torch.empty(free, dtype=torch.uint8, device="cuda"))
        got = encoder.encode_images(images)
    finally:
        held.clear()
        torch.cuda.empty_cache()
    np.testing.assert_allclose(got, expected, atol=1e-4)
    resizers = encoder._preprocessor._resizers
    (limit,) = (r.limit for kind, r in resizers.items() if (kind.height, kind.width) == (480, 640))
    assert "at once there now" in limit.warning
