from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from vla_retrieval.errors import CheckpointError

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from safetensors.torch import save_file  # noqa: E402

from vla_retrieval.encoders.weights import (  # noqa: E402
    hash_weights,
    load_weights,
    read_state_dict,
)


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def fresh():
    return open_clip.create_model("tiny-clip").eval()


def save(path: Path, value: object, **kwargs: object) -> Path:
    torch.save(value, path, **kwargs)
    return path


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "beside the weights"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickle_in_a_checkpoint_is_never_executed(tmp_path, tiny, monkeypatch, form, suffix):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    touched, path = tmp_path / "touched", tmp_path / f"evil{suffix}"
    evil = Malicious(touched)
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    elif form == "beside the weights":
        save(path, {"state_dict": tiny.state, "optimizer": evil})
    else:
        save(path, evil, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    assert not touched.exists()
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch advises to switch it off


def test_malicious_pickle_would_have_been_executed_without_the_guard(tmp_path):
    path = save(tmp_path / "evil.pt", Malicious(tmp_path / "touched"))
    torch.load(path, weights_only=False)
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(CheckpointError, match=f"No weights at .*{name}: expected a file"):
        read_state_dict(tmp_path / name)


def test_directory_is_no_weights_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"got a directory.*local-dir:"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["x.npz", "x.onnx", "x"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"expected a name that ends in \.safetensors"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_truncated_safetensors_are_refused(tmp_path, tiny, kept):
    content = tiny.checkpoint.read_bytes()
    size = kept if isinstance(kept, int) else int(len(content) * kept)
    (tmp_path / "cut.safetensors").write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is damaged.*again"):
        read_state_dict(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
def test_truncated_torch_file_is_refused(tmp_path, tiny, kept):
    path = save(tmp_path / "cut.pt", tiny.state)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.zeros(3)])
def test_file_without_weights_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state_dict(save(tmp_path / "x.pt", content))


def test_every_way_of_storing_the_weights_gives_the_same_hash(tmp_path, tiny):
    wrapped = {f"module.{key}": value for key, value in tiny.state.items()}
    without_scale = {k: v for k, v in tiny.state.items() if k != "logit_scale"}
    vector_scale = {**tiny.state, "logit_scale": tiny.state["logit_scale"].reshape(1)}
    paths = [
        tiny.checkpoint,
        save(tmp_path / "a.pt", tiny.state),
        save(tmp_path / "b.bin", {"state_dict": wrapped, "epoch": 12, "name": "run"}),
        save(tmp_path / "c.pth", without_scale),
        save(tmp_path / "d.pt", vector_scale),
        save(tmp_path / "e.pt", dict(reversed(tiny.state.items()))),
    ]
    hashes = set()
    for path in paths:
        model = fresh()
        load_weights(model, read_state_dict(path), str(path), may_resize=False)
        hashes.add(hash_weights(model))
    assert hashes == {hash_weights(tiny.model)}


def test_hash_reads_every_kind_of_tensor():
    module = torch.nn.BatchNorm1d(3)
    before = hash_weights(module)
    module.num_batches_tracked += 1  # int64, no dimension
    assert hash_weights(module) != before
    module.register_buffer("nothing", torch.zeros(0, 4))
    assert hash_weights(module) != before


def test_one_changed_weight_changes_the_hash(tiny):
    model = fresh()
    state = {key: value.clone() for key, value in tiny.state.items()}
    load_weights(model, state, "x", may_resize=False)
    before = hash_weights(model)
    with torch.no_grad():
        model.visual.proj[0, 0] += 1e-4
    assert hash_weights(model) != before
    assert before.startswith("sha256:")
    assert len(before) == len("sha256:") + 64


def test_weights_of_another_architecture_are_refused_with_their_names(tiny):
    state = dict(tiny.state)
    state["visual.proj"] = torch.zeros(3, 5)
    state["visual.extra"] = torch.zeros(2)
    del state["ln_final.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(fresh(), state, "some.pt", may_resize=False)
    message = str(caught.value)
    assert "some.pt does not fit the model" in message
    assert "visual.proj expected [32, 16], got [3, 5]" in message
    assert "1 missing: ln_final.bias [32]" in message
    assert "1 not in the model: visual.extra [2]" in message


def test_weights_of_another_image_size_are_not_quietly_resized(tiny):
    state = dict(tiny.state)
    state["visual.positional_embedding"] = torch.zeros(10, 32)  # 3 x 3 patches instead of 2 x 2
    with pytest.raises(CheckpointError, match=r"positional_embedding expected \[5, 32\]"):
        load_weights(fresh(), state, "x", may_resize=False)
    load_weights(fresh(), state, "x", may_resize=True)


def test_refused_weights_leave_the_model_as_it_was(tiny):
    model = fresh()
    before = hash_weights(model)
    with pytest.raises(CheckpointError):
        load_weights(model, {**tiny.state, "extra": torch.zeros(1)}, "x", may_resize=False)
    assert hash_weights(model) == before


def test_safetensors_and_strictness_agree_with_open_clips_loader(tiny, tmp_path):
    save_file(tiny.state, tmp_path / "y.safetensors")
    ours, theirs = fresh(), fresh()
    state = read_state_dict(tmp_path / "y.safetensors")
    load_weights(ours, state, "y", may_resize=False)
    open_clip.load_checkpoint(theirs, str(tmp_path / "y.safetensors"))
    assert hash_weights(ours) == hash_weights(theirs)
