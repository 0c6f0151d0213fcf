"""Where a model comes from: a name and a tag, a hub repository, a folder, a file, the package."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.encoders import DEMO_MODEL, EncoderSettings, load_encoder
from vla_retrieval.errors import CheckpointError, EncoderError

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from open_clip import pretrained as tags  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from vla_retrieval import shipped as shipped_files  # noqa: E402
from vla_retrieval.encoders.sources import resolve  # noqa: E402


def on_cpu(**changes: str) -> EncoderSettings:
    return EncoderSettings(**{"device": "cpu", **changes})


@pytest.fixture
def _made_up_tag(monkeypatch, tiny):
    tag = {
        "hf_hub": "made/up/", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
        "interpolation": "bilinear", "resize_mode": "squash", "size": 999, "quick_gelu": False,
    }  # fmt: skip
    monkeypatch.setitem(tags._PRETRAINED, tiny.name, {"made_up": tag})


# names and tags


def test_unknown_model_is_refused_with_near_names_and_the_way_to_all_of_them():
    with pytest.raises(EncoderError) as caught:
        load_encoder(on_cpu(model="vit-b32", pretrained="openai"))
    message = str(caught.value)
    assert "got 'vit-b32'" in message
    assert "'ViT-B-32'" in message
    assert "open_clip.list_models()" in message


def test_misspelt_demonstration_model_is_recognised():
    with pytest.raises(EncoderError, match=f"Did you mean '{DEMO_MODEL}'"):
        load_encoder(on_cpu(model="vla_retrieval_demo"))


def test_unknown_tag_is_refused_with_those_that_exist():
    with pytest.raises(EncoderError) as caught:
        load_encoder(on_cpu(model="ViT-B-32", pretrained="laion"))
    assert "got 'laion'" in str(caught.value)
    for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32"):
        assert repr(tag) in str(caught.value)


def test_a_misspelt_tag_behind_a_known_model_is_named_as_the_tag():
    with pytest.raises(EncoderError) as caught:
        load_encoder(on_cpu(model="ViT-B-32/laion2b_s34b_b79"))
    message = str(caught.value)
    assert "after ViT-B-32/, got 'laion2b_s34b_b79'" in message
    assert "'openai'" in message
    assert message.endswith("Did you mean laion2b_s34b_b79k?")


def test_file_given_as_tag_is_pointed_to_its_own_setting(tiny):
    with pytest.raises(EncoderError, match="It is a file: give it as checkpoint"):
        load_encoder(on_cpu(model="ViT-B-32", pretrained=str(tiny.checkpoint)))


def test_model_without_weights_is_refused_and_never_random():
    with pytest.raises(EncoderError, match="expected pretrained or checkpoint, got neither"):
        load_encoder(on_cpu(model="ViT-B-32"))


@pytest.mark.usefixtures("_made_up_tag")
def test_tag_brings_its_weights_and_its_preprocessing(tiny, hub_cache):
    encoder = load_encoder(
        on_cpu(model=tiny.name, pretrained="made_up", download_dir=str(hub_cache))
    )
    assert encoder.fingerprint.model == tiny.name
    assert encoder.fingerprint.preprocessing == (
        "32x32 squash bilinear mean=0.5,0.5,0.5 std=0.5,0.5,0.5"
    )


@pytest.mark.usefixtures("_made_up_tag")
def test_name_and_tag_may_come_in_one_setting(tiny, hub_cache):
    one = load_encoder(on_cpu(model=f"{tiny.name}/made_up", download_dir=str(hub_cache)))
    two = load_encoder(
        on_cpu(model=tiny.name, pretrained="made_up", download_dir=str(hub_cache))
    )  # fmt: skip
    assert one.fingerprint == two.fingerprint


def test_a_slash_that_belongs_to_the_name_stays_in_it(tiny):
    with pytest.raises(EncoderError, match="model 'ViT-B-32' needs weights"):
        load_encoder(on_cpu(model="ViT-B/32"))


@pytest.mark.usefixtures("_made_up_tag")
def test_tag_without_network_says_how_to_download_beforehand(tiny, tmp_path):
    with pytest.raises(EncoderError) as caught:
        load_encoder(on_cpu(model=tiny.name, pretrained="made_up", download_dir=str(tmp_path)))
    message = str(caught.value)
    assert "Cannot get the weights 'made_up' of 'tiny-clip'" in message
    assert "hf download made/up" in message
    assert "set checkpoint to it" in message


def test_weights_trained_with_quickgelu_get_the_model_that_has_it(monkeypatch, tiny, caplog):
    monkeypatch.setattr("vla_retrieval.encoders.sources.download_pretrained",
                        lambda tag, cache_dir: str(tiny.checkpoint))  # fmt: skip
    source = resolve(on_cpu(model="ViT-B-32", pretrained="openai"))
    assert source.name == source.architecture == "ViT-B-32-quickgelu"
    assert source.config["quick_gelu"]
    assert "QuickGELU" in caplog.text


def test_every_tag_of_open_clip_agrees_with_its_model_on_quickgelu(monkeypatch, tiny):
    monkeypatch.setattr("vla_retrieval.encoders.sources.download_pretrained",
                        lambda tag, cache_dir: str(tiny.checkpoint))  # fmt: skip
    monkeypatch.setattr("vla_retrieval.encoders.sources._check_packages", lambda name, cfg: None)
    for model, tag in open_clip.list_pretrained():
        if open_clip.get_model_config(model) is None:
            continue  # a twin that open_clip lists tags for, without a configuration
        source = resolve(on_cpu(model=model, pretrained=tag))
        wanted = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
        assert source.config.get("quick_gelu", False) >= wanted, (model, tag)


# hub


def test_hub_repository_is_read_from_the_cache(tiny, hub_cache, encoder):
    found = load_encoder(on_cpu(model="hf-hub:made/up", download_dir=str(hub_cache)))
    assert found.fingerprint.model == "hf-hub:made/up"
    assert found.fingerprint.weights == encoder.fingerprint.weights
    assert "squash" in found.fingerprint.preprocessing


def test_hub_repository_that_is_out_of_reach_says_how_to_download_beforehand(tmp_path):
    with pytest.raises(EncoderError, match=r"Cannot get open_clip_config\.json of 'hf-hub:made/up"):
        load_encoder(on_cpu(model="hf-hub:made/up", download_dir=str(tmp_path)))


# folders


def test_folder_is_loaded_with_its_own_preprocessing(model_folder, encoder):
    found = load_encoder(on_cpu(model=f"local-dir:{model_folder}"))
    assert found.fingerprint.weights == encoder.fingerprint.weights
    assert found.fingerprint.preprocessing.startswith("32x32 squash bicubic mean=0.5,0.5,0.5")


def test_folder_that_moved_holds_the_same_model(model_folder, tmp_path):
    before = resolve(on_cpu(model=f"local-dir:{model_folder}"))
    moved = shutil.move(model_folder, tmp_path / "elsewhere")
    assert resolve(on_cpu(model=f"local-dir:{moved}")).name == before.name


def test_folder_with_another_architecture_is_another_model(model_folder):
    before = resolve(on_cpu(model=f"local-dir:{model_folder}")).name
    config = json.loads((model_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (model_folder / "open_clip_config.json").write_text(json.dumps(config))
    assert resolve(on_cpu(model=f"local-dir:{model_folder}")).name != before


@pytest.mark.parametrize(("content", "message"), [
    (None, "a folder without it"), ("{", "is no open_clip configuration"),
    ("{}", "expected JSON with model_cfg"), ('{"model_cfg": 3}', "model_cfg is int"),
    ('{"model_cfg": {"embed_dim": 4}}', "cannot build"),
])  # fmt: skip
def test_folder_without_a_usable_configuration_is_refused(model_folder, content, message):
    config = model_folder / "open_clip_config.json"
    config.unlink() if content is None else config.write_text(content)
    with pytest.raises(EncoderError, match=message):
        load_encoder(on_cpu(model=f"local-dir:{model_folder}"))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(EncoderError, match=r"nowhere, got no such folder"):
        load_encoder(on_cpu(model=f"local-dir:{tmp_path}/nowhere"))


def test_folder_without_weights_is_refused(model_folder):
    (model_folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected one weights file .* got none"):
        load_encoder(on_cpu(model=f"local-dir:{model_folder}"))


def test_folder_with_several_weights_asks_which(model_folder):
    first = model_folder / "open_clip_model.safetensors"
    shutil.copy(first, model_folder / "epoch_2.safetensors")
    first.rename(model_folder / "epoch_1.safetensors")
    with pytest.raises(CheckpointError, match=r"epoch_1.*epoch_2.*Name the one you mean"):
        load_encoder(on_cpu(model=f"local-dir:{model_folder}"))
    chosen = str(model_folder / "epoch_2.safetensors")
    assert load_encoder(on_cpu(model=f"local-dir:{model_folder}", checkpoint=chosen)).dim == 16


def test_safetensors_win_over_a_pickle_beside_them(model_folder):
    (model_folder / "open_clip_pytorch_model.bin").write_bytes(b"not even a pickle")
    assert load_encoder(on_cpu(model=f"local-dir:{model_folder}")).dim == 16


def test_configuration_that_asks_for_foreign_code_is_refused(model_folder):
    config = json.loads((model_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (model_folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="asks for trust_remote_code"):
        load_encoder(on_cpu(model=f"local-dir:{model_folder}"))


@pytest.fixture
def _no_transformers(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("_no_transformers")
def test_missing_package_is_named_before_anything_is_downloaded():
    with pytest.raises(EncoderError, match="pip install transformers"):
        resolve(on_cpu(model="ViT-B-16-SigLIP2", pretrained="webli"))


@pytest.mark.usefixtures("_no_transformers")
def test_folder_that_needs_a_missing_package_says_which(model_folder):
    config = json.loads((model_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "made/up"
    (model_folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="pip install transformers"):
        resolve(on_cpu(model=f"local-dir:{model_folder}"))


# files


def test_missing_checkpoint_is_named(tmp_path, tiny):
    with pytest.raises(CheckpointError, match=r"No weights at .*gone\.pt"):
        load_encoder(on_cpu(model=tiny.name, checkpoint=str(tmp_path / "gone.pt")))


def test_checkpoint_of_another_model_is_refused_with_the_first_differences(tiny):
    with pytest.raises(CheckpointError) as caught:
        load_encoder(on_cpu(model="ViT-S-32-alt", checkpoint=str(tiny.checkpoint)))
    assert "does not fit the model" in str(caught.value)
    assert "expected [" in str(caught.value)
    assert "missing: " in str(caught.value)


def test_home_is_expanded_in_paths(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.folder))
    source = resolve(on_cpu(model=tiny.name, checkpoint="~/tiny-clip.safetensors"))
    assert source.checkpoint == tiny.checkpoint


def test_damaged_numbers_in_the_weights_are_noticed_at_load(tiny, tmp_path):
    state = {**tiny.state, "text_projection": torch.full((32, 16), torch.nan)}
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        load_encoder(on_cpu(model=tiny.name, checkpoint=str(tmp_path / "nan.safetensors")))


# the model that ships


@pytest.fixture
def shipped(tmp_path, tiny, monkeypatch) -> Path:
    """A prefix as colcon installs it, with a made-up demonstration model."""
    folder = tmp_path / "prefix" / "share" / "vla_retrieval" / "demo" / "model"
    folder.mkdir(parents=True)
    shutil.copy(tiny.folder / "tiny-clip.json", folder / f"{DEMO_MODEL}.json")
    shutil.copy(tiny.checkpoint, folder / f"{DEMO_MODEL}.safetensors")
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    monkeypatch.setattr(shipped_files, "__file__", str(tmp_path / "away/vla_retrieval/shipped.py"))
    return folder


def test_demonstration_model_is_found_through_the_ament_prefix_path(
    shipped, monkeypatch, caplog, tmp_path
):
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'other'}:{tmp_path / 'prefix'}")
    encoder = load_encoder(EncoderSettings(device="cpu"))
    assert encoder.fingerprint.model == DEMO_MODEL
    assert encoder.encode_instructions(["拿起桌子上的杯子"]).shape == (1, 16)
    assert "is a demonstration model" in caplog.text


def test_demonstration_model_without_its_weights_is_refused(shipped, monkeypatch, tmp_path):
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))
    (shipped / f"{DEMO_MODEL}.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights: expected .*safetensors"):
        load_encoder(EncoderSettings(device="cpu"))


@pytest.mark.parametrize("content", ["{", "[]", '{"embed_dim": 3}'])
def test_damaged_demonstration_model_is_refused(shipped, monkeypatch, tmp_path, content):
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))
    (shipped / f"{DEMO_MODEL}.json").write_text(content)
    with pytest.raises(EncoderError, match="Install the package again"):
        load_encoder(EncoderSettings(device="cpu"))


def test_loading_neither_configures_the_root_logger_nor_speaks_of_random_weights(load, caplog):
    root = logging.getLogger()
    before = list(root.handlers), list(root.filters)
    load()
    assert (list(root.handlers), list(root.filters)) == before
    assert "initialized randomly" not in caplog.text


def test_embeddings_of_one_model_do_not_depend_on_how_its_weights_are_stored(
    encoder, load, tiny, tmp_path, scene
):
    torch.save({"state_dict": tiny.state}, tmp_path / "tiny.pt")
    image = scene(40, 50)
    plain, pickled = encoder, load(checkpoint=str(tmp_path / "tiny.pt"))
    assert plain.fingerprint == pickled.fingerprint
    np.testing.assert_array_equal(plain.encode_images([image]), pickled.encode_images([image]))
