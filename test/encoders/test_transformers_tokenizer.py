"""Tokenizers of transformers, which SigLIP 2 and other multilingual models bring."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from vla_retrieval.encoders import EncoderSettings, load_encoder

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
pytest.importorskip("transformers", reason="models with such a tokenizer are optional")

TEXTS = ["lift the cup", "lift the red block on the table and put the cup down"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of SigLIP 2's form with a made-up vocabulary."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {"[PAD]": 0, "[EOS]": 1, "[UNK]": 2, **{w: i + 3 for i, w in enumerate(words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    config = {
        "embed_dim": 16, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1,
            "hf_tokenizer_name": "made/up", "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        },
    }  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_instructions_equal_those_of_open_clip(folder):
    encoder = load_encoder(
        EncoderSettings(model=f"local-dir:{folder}", device="cpu", precision="fp32")
    )
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
        theirs = model.eval().encode_text(tokens, normalize=True).numpy()
    ours = encoder.encode_instructions(TEXTS)
    assert (ours * theirs).sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    assert [encoder.truncates(text) for text in TEXTS] == [False, True]
    assert not encoder.truncates(" ".join(["cup"] * 7))
    assert encoder.truncates(" ".join(["cup"] * 8))


def test_concurrent_calls_do_not_borrow_the_tokenizer_twice(folder):
    encoder = load_encoder(
        EncoderSettings(model=f"local-dir:{folder}", device="cpu", cached_instructions=0)
    )
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for i in range(50):
                encoder.encode_instructions([TEXTS[(start + i) % 2]])
                encoder.truncates(TEXTS[0])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
