import pytest

torch = pytest.importorskip("torch", reason="the demonstration model needs torch")
open_clip = pytest.importorskip("open_clip", reason="the demonstration model needs open_clip")

from safetensors.torch import load_file  # noqa: E402 - after importorskip

from tools.tabletop.model import (  # noqa: E402 - after importorskip
    MODEL_NAME,
    WEIGHTS_PATH,
    CompactTokenizer,
    compact_model,
    encode_trimmed_text,
    export,
    load_shipped,
    read_config,
)

CORPUS = ["pick up the red cup", "拿起桌子上的红色杯子", "put it next to the plate."]


def test_the_shipped_weights_stay_under_twenty_megabytes():
    assert WEIGHTS_PATH.stat().st_size <= 20_000_000


def test_the_shipped_weights_load_strictly_by_the_models_name():
    model, preprocess, tokenizer = load_shipped()
    with torch.inference_mode():
        embedding = model.encode_text(tokenizer(CORPUS), normalize=True)
    assert embedding.shape == (3, read_config()["embed_dim"])
    assert torch.allclose(embedding.norm(dim=1), torch.ones(3), atol=1e-5)
    assert MODEL_NAME in open_clip.list_models()
    assert preprocess is not None


def test_tokens_never_met_in_training_add_nothing():
    table = load_file(str(WEIGHTS_PATH))["token_embedding.weight"]
    assert (table.abs().sum(dim=1) == 0).sum() > 49_000


def test_the_two_languages_agree_on_what_is_meant():
    model, _, tokenizer = load_shipped()
    said = ["pick up the cup on the table", "拿起桌子上的杯子", "拿起桌子上的香蕉"]
    with torch.inference_mode():
        english, chinese, banana = model.encode_text(tokenizer(said), normalize=True)
    assert english @ chinese > 0.8
    assert english @ chinese > english @ banana


def test_an_exported_model_embeds_as_the_one_that_was_trained(tmp_path):
    tokenizer = CompactTokenizer(CORPUS)
    model = compact_model(tokenizer).eval()
    export(model.state_dict(), tokenizer.tokens, tmp_path / "weights.safetensors")
    loaded, _, full_tokenizer = load_shipped(tmp_path / "weights.safetensors")
    with torch.inference_mode():
        before = encode_trimmed_text(model, tokenizer(CORPUS))
        after = loaded.encode_text(full_tokenizer(CORPUS), normalize=True)
    # float16 weights explain the difference.
    torch.testing.assert_close(before, after, atol=5e-3, rtol=0)
