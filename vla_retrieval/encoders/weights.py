"""Weights from a file into a model: no code is executed, nothing is left out, and they have a hash.

open_clip's own loader tries ``torch.load`` a second time without ``weights_only`` when the
first raises TypeError, and reads numpy files too. Files are therefore read here, with
safetensors or with ``weights_only=True`` and nothing else; of open_clip only the conversions
of tensors between known formats are used.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

from vla_retrieval.errors import CheckpointError

StateDict = dict[str, torch.Tensor]

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""Kinds of weights files that are read."""

_NAMED = 3
"""How many keys of each kind a message names."""

_NOT_IN_EMBEDDINGS = ("logit_scale", "logit_bias")
"""Parameters of the training loss. Files of one model differ in whether they hold them."""


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a weights file without executing anything in it.

    Args:
        path: A .safetensors file, or one of ``torch.save`` (.pt, .pth, .bin).

    Returns:
        Tensors by name, on the CPU, without the prefix of a distributed wrapper.

    Raises:
        CheckpointError: If the file is missing, damaged, of another kind, or holds anything
            but tensors.
    """
    if not path.is_file():
        raise CheckpointError(
            f"No weights at {path}: expected a file, got "
            f"{'a directory' if path.is_dir() else 'nothing'}. Check the path; a folder with "
            "open_clip_config.json and weights is given as model: local-dir:<path>."
        )
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path} cannot be read: expected a name that ends in {', '.join(SUFFIXES)}, got "
            f"{path.suffix or 'none'!r}. Convert the weights to safetensors."
        )
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not state or not _all_tensors(state):
        raise CheckpointError(
            f"{path} holds no weights: expected tensors by name, got {_describe(state)}. Save "
            "model.state_dict(), or give the file of the whole model."
        )
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key[len(prefix) :]: value for key, value in state.items()}


def load_weights(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str, *, may_resize: bool
) -> None:
    """Put the tensors into the model, each of its parameters and no other.

    Args:
        model: As open_clip built it, in fp32.
        state: Tensors by name, in a format that open_clip can convert.
        source: Where they are from, for the message.
        may_resize: Whether position embeddings of another image or text size are
            interpolated, as open_clip does. Right for the published weights of a model that
            were trained so; for other files it hides that they are of another model.

    Raises:
        CheckpointError: If a tensor is missing, is not of the model, or has another shape; the
            message names the first of each.
    """
    try:
        converted = _convert(model, dict(state), may_resize)
    except (KeyError, RuntimeError, AttributeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source} does not fit the model: open_clip cannot convert it ({error}). Give the "
            "weights of this model, or the model of these weights."
        ) from error
    complaint = compare(model.state_dict(), converted)
    if complaint:
        raise CheckpointError(
            f"{source} does not fit the model: {complaint}. Give the weights of this model, or "
            "the model of these weights."
        )
    model.load_state_dict(converted, strict=True)


def compare(expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]) -> str:
    """Return what differs in names and shapes, or an empty string."""
    missing = [f"{key} {list(expected[key].shape)}" for key in expected if key not in got]
    foreign = [f"{key} {list(got[key].shape)}" for key in got if key not in expected]
    shapes = [
        f"{key} expected {list(expected[key].shape)}, got {list(got[key].shape)}"
        for key in expected
        if key in got and got[key].shape != expected[key].shape
    ]
    kinds = (("other shapes", shapes), ("missing", missing), ("not in the model", foreign))
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:_NAMED])}{', ...' * (len(keys) > _NAMED)}"
        for kind, keys in kinds
        if keys
    )


def hash_weights(model: torch.nn.Module) -> str:
    """Return ``"sha256:<hex>"`` of everything in the model that embeddings depend on.

    It is taken from the loaded fp32 model and not from the file, in the order of the names, so
    the same weights have the same hash as .safetensors, as .pt, with or without the prefix of
    a wrapper, before and after open_clip's conversions. Weights that were stored in half
    precision are other weights. Hashing runs at about 1 GB/s where the CPU has SHA
    instructions: ViT-B-32 (600 MB) takes 0.7 s, once per start, so nothing is cached.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in _NOT_IN_EMBEDDINGS:
            continue
        value = tensor.detach().cpu().contiguous()
        if value.is_floating_point():
            value = value.to(torch.float32)
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged: expected safetensors of {_size(path)}, got {error}. "
            "Copy or download it again."
        ) from error


def _read_torch(path: Path) -> object:
    try:
        # Given explicitly: only then does TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD not override it.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, and reading that could execute code: expected a "
            f"state dict, got {_essence(error)}. Convert it to safetensors where you trust "
            "it, and give that file."
        ) from error
    except Exception as error:  # what a damaged pickle raises depends on the damage
        raise CheckpointError(
            f"{path} cannot be read: expected a state dict of torch.save, got "
            f"{_essence(error)}. If it was copied, copy it again; a TorchScript archive or "
            "an older format must be converted to safetensors."
        ) from error


def _convert(model: torch.nn.Module, state: StateDict, may_resize: bool) -> StateDict:
    """Bring a state dict to the model's names, as ``open_clip.load_checkpoint`` does."""
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    for key in _NOT_IN_EMBEDDINGS:
        if key in own:  # a scalar in one version, a vector of one in another, or left out
            given = state.get(key)
            state[key] = own[key] if given is None else given.reshape(own[key].shape)
    if "logit_bias" not in own:
        state.pop("logit_bias", None)
    # transformers before 4.31 saved a buffer that is none any more.
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids not in own:
        state.pop(position_ids, None)
    if may_resize:
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
    return state


def _all_tensors(state: Mapping[object, object]) -> bool:
    return all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with the keys {[str(key) for key in list(value)[:_NAMED]]}"
    return type(value).__name__


def _essence(error: Exception) -> str:
    """Return what torch complains of, without its advice to load the file unsafely."""
    text = str(error)
    if "TorchScript" in text:
        return "a TorchScript archive"
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", text)
        return f"a pickle that refers to {named[1]}" if named else "a pickle of other objects"
    first = text.strip().splitlines()[:1]
    return f"{type(error).__name__} ({first[0]})" if first else type(error).__name__


def _size(path: Path) -> str:
    return f"{path.stat().st_size} bytes"
