"""Engines against torch in fp32, on models small enough to convert in a moment."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.encoders import EncoderSettings, load_encoder
from vla_retrieval.errors import EncoderError

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from vla_retrieval.encoders import engine_choice, verification  # noqa: E402
from vla_retrieval.encoders.compiled_engine import CompiledEngine  # noqa: E402
from vla_retrieval.encoders.engine_choice import Candidate, candidates  # noqa: E402

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TEXTS = ["cup", "pick up the cup on the table", "拿起桌子上的杯子", " ".join(["block"] * 30)]
OPTIONAL = [("openvino", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")]
BOTH_WAYS = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16,
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
        "no_causal_mask": True, "pool_type": "last", "proj_bias": True,
    },
    "custom_text": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One folder of compiled engines for the module: each model is compiled once."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def both_ways(torch_module, tmp_path_factory) -> tuple[str, str]:
    """A model whose text tower looks both ways, as SigLIP's does: its name and weights."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("both_ways")
    (folder / "tiny-both-ways.json").write_text(json.dumps(BOTH_WAYS))
    open_clip.add_model_config(folder / "tiny-both-ways.json")
    torch_module.manual_seed(11)
    save_file(open_clip.create_model("tiny-both-ways").state_dict(), folder / "w.safetensors")
    return "tiny-both-ways", str(folder / "w.safetensors")


def worst(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float((mine.astype(np.float64) * theirs).sum(axis=1).min())


def least(precision: str) -> float:
    return 0.99 if precision == "int8" else 0.99999


@pytest.mark.parametrize(("engine", "precision"), OPTIONAL)
def test_engine_gives_what_torch_gives_alone_and_in_batches(load, cache, scene, engine, precision):
    pytest.importorskip(engine)
    exact = load()
    other = load(engine=engine, precision=precision, engine_cache_dir=str(cache), batch_size=4)
    assert (other.engine, other.precision, other.device) == (engine, precision, "cpu")
    assert other.fingerprint == exact.fingerprint
    images = [scene(40 + i, 50, seed=i) for i in range(7)]
    for few in (images[:1], images):
        assert worst(other.encode_images(few), exact.encode_images(few)) > least(precision)
    for texts in (TEXTS[:1], TEXTS):
        mine, theirs = other.encode_instructions(texts), exact.encode_instructions(texts)
        assert worst(mine, theirs) > least(precision)


@pytest.mark.parametrize(
    "engine", ["torch", "openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)]
)
def test_tower_that_looks_both_ways_reads_all_of_its_context(both_ways, cache, engine):
    pytest.importorskip(engine)
    name, checkpoint = both_ways
    encoder = load_encoder(
        EncoderSettings(
            model=name, checkpoint=checkpoint, device="cpu", engine=engine,
            engine_cache_dir=str(cache), precision="fp32",
        )
    )  # fmt: skip
    model = open_clip.create_model(name, pretrained=checkpoint).eval()
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(name)(TEXTS)
        theirs = model.encode_text(tokens, normalize=True).numpy()
    assert encoder._engine.text_lengths == (16,)
    assert worst(encoder.encode_instructions(TEXTS), theirs) > 0.99999


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "precision"), OPTIONAL)
def test_engine_runs_the_model_that_ships(tmp_path, scene, engine, precision):
    pytest.importorskip(engine)
    exact = load_encoder(EncoderSettings(device="cpu", engine="torch"))
    other = load_encoder(
        EncoderSettings(
            device="cpu", engine=engine, precision=precision, engine_cache_dir=str(tmp_path)
        )
    )
    images = [scene(240, 320, seed=i) for i in range(3)]
    assert worst(other.encode_images(images), exact.encode_images(images)) > least(precision)
    texts = exact.encode_instructions(TEXTS)
    assert worst(other.encode_instructions(TEXTS), texts) > least(precision)


def test_second_start_compiles_nothing(load, cache, monkeypatch):
    openvino = pytest.importorskip("openvino")
    load(engine="openvino", engine_cache_dir=str(cache))  # also after the tests above: cached
    monkeypatch.setattr(openvino, "convert_model", lambda *_: pytest.fail("converted again"))
    assert load(engine="openvino", engine_cache_dir=str(cache)).engine == "openvino"


def test_converting_reports_to_nobody():
    pytest.importorskip("openvino")
    program = (
        "import vla_retrieval.encoders.no_telemetry\n"
        "from openvino.tools.ovc import telemetry_stub, telemetry_utils\n"
        "assert telemetry_utils.tm is telemetry_stub\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_engine_that_computes_something_else_is_refused_with_both_numbers(load, monkeypatch):
    def shuffled(self, prepared):
        return original(self, prepared).roll(1, dims=1)

    original = engine_choice.TorchEngine.embed_pixels
    monkeypatch.setattr(engine_choice.TorchEngine, "embed_pixels", shuffled)
    with pytest.raises(
        EncoderError, match=r"expected a cosine of at least 0\.9999 .* got -?0\.\d+"
    ):
        load()


def test_not_a_number_is_refused_too(load, monkeypatch):
    monkeypatch.setattr(
        engine_choice.TorchEngine, "embed_tokens", lambda _, tokens: torch.full((1, 16), torch.nan)
    )
    with pytest.raises(EncoderError, match=r"at least .* for instructions, got nan"):
        load()


def test_auto_passes_over_an_engine_that_computes_something_else(load, cache, monkeypatch, caplog):
    pytest.importorskip("openvino")
    monkeypatch.setattr(
        CompiledEngine, "embed_pixels", lambda _, prepared: torch.ones(len(prepared), 16)
    )
    monkeypatch.setattr(
        engine_choice, "candidates",
        lambda *_: ([Candidate("openvino", "fp32"), Candidate("torch", "fp32")], "tried"),
    )  # fmt: skip
    encoder = load(engine="auto", engine_cache_dir=str(cache))
    assert encoder.engine == "torch"
    assert encoder.engine_reason == "after openvino in fp32 was refused"
    assert any("expected a cosine" in r.getMessage() for r in caplog.records)


def test_auto_passes_over_an_engine_that_fails_on_the_probe(load, cache, monkeypatch, caplog):
    pytest.importorskip("openvino")

    def fail(self, prepared):
        raise RuntimeError("no kernel for this shape\nand more")

    monkeypatch.setattr(CompiledEngine, "embed_pixels", fail)
    monkeypatch.setattr(
        engine_choice, "candidates",
        lambda *_: ([Candidate("openvino", "fp32"), Candidate("torch", "fp32")], "tried"),
    )  # fmt: skip
    assert load(engine="auto", engine_cache_dir=str(cache)).engine == "torch"
    assert any("no kernel for this shape" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("library", ["onnxruntime", "onnx", "onnxscript", "transformers"])
def test_towers_for_onnxruntime_are_made_anew_with_another_release(
    load, tmp_path, monkeypatch, library
):
    module = pytest.importorskip(library)
    pytest.importorskip("onnxruntime")
    keys = []

    class RefusedError(Exception):
        pass

    def note(_, key, build):
        keys.append(dict(key))
        raise RefusedError

    monkeypatch.setattr("vla_retrieval.encoders.artefacts.ArtefactCache.folder", note)
    for _ in range(2):
        with pytest.raises(EncoderError, match="Refused"):
            load(engine="onnxruntime", precision="fp32", engine_cache_dir=str(tmp_path))
        monkeypatch.setattr(module, "__version__", "0.0.0")
    assert keys[0] != keys[1]


def test_verified_cosines_and_the_reason_are_logged(load, caplog):
    caplog.set_level(logging.INFO)
    load()
    [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("engine ")]
    assert line.startswith("engine torch in fp32 (asked for), worst cosine to torch fp32: image ")


@pytest.mark.parametrize("library", ["onnxruntime", "onnxscript"])
def test_missing_library_is_named_where_the_engine_was_asked_for(load, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EncoderError, match=rf"needs {library}, .*requirements/cpu_engines\.txt"):
        load(engine="onnxruntime")


def test_auto_without_optional_libraries_is_torch_and_says_why(load, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    for library in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, library, None)
    encoder = load(engine="auto")
    assert (encoder.engine, encoder.precision) == ("torch", "fp32")
    assert encoder.engine_reason == "openvino, onnxruntime not installed"
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


def test_library_of_a_release_that_does_not_fit_counts_as_missing_and_is_said(
    monkeypatch, tmp_path, caplog
):
    (tmp_path / "onnxscript.py").write_text("raise AttributeError('no onnx_ir.Tape')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxscript", raising=False)
    pytest.importorskip("onnxruntime")
    assert engine_choice.missing_library("onnxruntime") == "onnxscript"
    [line] = [r.getMessage() for r in caplog.records]
    assert line == (
        "engine onnxruntime: importing onnxscript failed: AttributeError (no onnx_ir.Tape)"
    )


@pytest.fixture
def _all_installed(monkeypatch):
    monkeypatch.setattr(engine_choice, "missing_library", lambda engine: "")


def _with_bf16(monkeypatch, has_it: bool) -> None:
    module = pytest.importorskip("vla_retrieval.encoders.openvino_engine", exc_type=ImportError)
    monkeypatch.setattr(module, "has_fast_bf16", lambda: has_it)


@pytest.mark.usefixtures("_all_installed")
@pytest.mark.parametrize(("precision", "has_bf16", "expected"), [
    ("auto", True, ["openvino bf16", "openvino fp32", "onnxruntime fp32", "torch fp32"]),
    ("auto", False, ["openvino fp32", "onnxruntime fp32", "torch fp32"]),
    ("fp32", True, ["openvino fp32", "onnxruntime fp32", "torch fp32"]),
    ("bf16", True, ["openvino bf16", "torch bf16"]),
    ("bf16", False, ["torch bf16"]),
    ("fp16", True, ["torch fp16"]),
    ("int8", True, ["onnxruntime int8"]),
])  # fmt: skip
def test_auto_tries_the_fastest_first(monkeypatch, precision, has_bf16, expected):
    _with_bf16(monkeypatch, has_bf16)
    found, _ = candidates(EncoderSettings(precision=precision), CPU)
    assert [f"{c.engine} {c.precision}" for c in found] == expected


@pytest.mark.usefixtures("_all_installed")
def test_bf16_by_name_needs_a_cpu_that_has_it(monkeypatch):
    _with_bf16(monkeypatch, False)
    with pytest.raises(EncoderError, match=r"got bf16, which needs AVX-512 BF16 or AMX"):
        candidates(EncoderSettings(engine="openvino", precision="bf16"), CPU)


def test_gpu_is_torchs_alone():
    gpu = torch.device("cuda", 0)
    assert candidates(EncoderSettings(), gpu)[0] == [Candidate("torch", "fp16")]
    with pytest.raises(EncoderError, match="engine openvino runs on the CPU"):
        candidates(EncoderSettings(engine="openvino"), gpu)
    with pytest.raises(EncoderError, match="int8 is computed on the CPU"):
        candidates(EncoderSettings(precision="int8"), gpu)


def test_model_that_an_engine_cannot_convert_is_an_error_that_says_what_to_do(
    load, tmp_path, monkeypatch
):
    openvino = pytest.importorskip("openvino")

    def fail(_):
        raise openvino.frontend.OpConversionFailure("no rule for aten::made_up\nand more")

    monkeypatch.setattr(openvino, "convert_model", fail)
    with pytest.raises(
        EncoderError, match=r"cannot run this model: .*aten::made_up.*auto or torch"
    ):
        load(engine="openvino", engine_cache_dir=str(tmp_path))
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_every_precision_has_a_threshold():
    from vla_retrieval.encoders.settings import PRECISIONS

    assert set(verification.THRESHOLDS) == set(PRECISIONS) - {"auto"}
