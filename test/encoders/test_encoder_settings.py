from __future__ import annotations

import pytest

from vla_retrieval.encoders import DEMO_MODEL, EncoderSettings
from vla_retrieval.errors import InvalidInputError


def test_default_is_the_demonstration_model_on_the_best_device():
    settings = EncoderSettings()
    assert (settings.model, settings.device, settings.precision) == (DEMO_MODEL, "auto", "auto")


@pytest.mark.parametrize(("field", "value", "expected"), [
    ("model", " ", "the name of a model"),
    ("device", "gpu", "auto, cpu, cuda or cuda:<index>"),
    ("device", "cuda:-1", "auto, cpu, cuda or cuda:<index>"),
    ("precision", "int4", "one of auto, fp32, fp16, bf16, int8, got"),
    ("engine", "tensorrt", "one of auto, torch, openvino, onnxruntime"),
    ("batch_size", 0, r"a whole number in \[1, 4096\]"),
    ("batch_size", 4.0, "int, got float 4.0"),
    ("threads", -1, r"a whole number in \[0, 1024\]"),
    ("cached_instructions", -5, r"a whole number in \[0, 1000000\]"),
    ("checkpoint", None, "str, got NoneType None"),
])  # fmt: skip
def test_value_out_of_range_is_refused_by_name(field, value, expected):
    with pytest.raises(InvalidInputError, match=expected) as caught:
        EncoderSettings(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(("engine", "precision", "expected"), [
    ("torch", "int8", "one of auto, fp32, fp16, bf16 for engine torch"),
    ("openvino", "int8", "one of auto, fp32, bf16 for engine openvino"),
    ("onnxruntime", "bf16", "one of auto, fp32, int8 for engine onnxruntime"),
])  # fmt: skip
def test_engine_is_refused_arithmetic_that_it_does_not_have(engine, precision, expected):
    with pytest.raises(InvalidInputError, match=expected) as caught:
        EncoderSettings(engine=engine, precision=precision)
    assert caught.value.field == "precision"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_every_form_of_device_is_accepted(device):
    assert EncoderSettings(device=device).device == device


def test_two_sources_of_weights_contradict_each_other():
    with pytest.raises(InvalidInputError, match="only one of pretrained and checkpoint"):
        EncoderSettings(model="ViT-B-32", pretrained="openai", checkpoint="x.safetensors")


@pytest.mark.parametrize("model", ["hf-hub:made/up", "local-dir:/models/x"])
def test_tag_is_refused_where_the_model_brings_its_weights(model):
    with pytest.raises(InvalidInputError, match="brings its own weights"):
        EncoderSettings(model=model, pretrained="openai")
