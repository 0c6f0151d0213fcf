"""From a model's name to what is loaded: architecture, tokenizer, weights file, preprocessing.

Every way in which this can fail on a robot (a typing error, no network, a missing package) ends
here as an `EncoderError` that says what to do.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import open_clip
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf

from vla_retrieval.encoders.builtin import register_demo_model
from vla_retrieval.encoders.settings import DEMO_MODEL, EncoderSettings
from vla_retrieval.encoders.weights import SUFFIXES
from vla_retrieval.errors import CheckpointError, EncoderError, did_you_mean

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_CONFIG = "open_clip_config.json"
_HUB, _LOCAL = "hf-hub:", "local-dir:"
_SAFE_NAMES = ("open_clip_model.safetensors", "model.safetensors")
_LIST_MODELS = 'python3 -c "import open_clip; print(*open_clip.list_models(), sep=chr(10))"'


@dataclass(frozen=True)
class ModelSource:
    """Where the parts of one model are.

    Attributes:
        name: In fingerprints and messages; the same wherever the files lie.
        architecture: What ``open_clip.create_model`` takes.
        tokenizer: What ``open_clip.get_tokenizer`` takes.
        checkpoint: The weights file.
        config: open_clip's ``model_cfg``.
        preprocess: What the weights' tag changes in ``preprocess_cfg``.
        is_published: Whether open_clip itself says that weights and architecture belong together.
        cache_dir: Where downloads are kept; None for the hub's own folder.
    """

    name: str
    architecture: str
    tokenizer: str
    checkpoint: Path
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    is_published: bool = False
    cache_dir: str | None = None


def resolve(settings: EncoderSettings) -> ModelSource:
    """Find the parts of the model that the settings name, downloading what has to be.

    Raises:
        EncoderError: If the model or its tag is not known, has no weights, needs a package that
            is not installed, or a download fails.
        CheckpointError: If a weights file is not where it should be.
    """
    if settings.model.startswith(_HUB):
        return _from_hub(settings)
    if settings.model.startswith(_LOCAL):
        return _from_folder(settings)
    return _from_name(settings)


def _from_name(settings: EncoderSettings) -> ModelSource:
    settings = _split_tag(settings)
    name = settings.model.replace("/", "-")  # as open_clip reads it
    if name == DEMO_MODEL:
        return _demo(settings)
    config = open_clip.get_model_config(name)
    if config is None:
        raise _unknown_model(settings.model)
    _check_packages(name, config)
    if settings.checkpoint:
        return ModelSource(
            name, name, name, _path(settings.checkpoint), config,
            cache_dir=settings.download_dir or None,
        )  # fmt: skip
    if not settings.pretrained:
        raise EncoderError(
            f"model {name!r} needs weights: expected pretrained or checkpoint, got neither. "
            f"Set pretrained to {_any_of(_tags(name))}, or checkpoint to a file."
        )
    return _from_tag(settings, name, config)


def _split_tag(settings: EncoderSettings) -> EncoderSettings:
    """Take ``ViT-B-32/laion2b_s34b_b79k`` apart; ``ViT-B/32``, as OpenAI writes it, stays whole."""
    model, _, tag = settings.model.rpartition("/")
    if settings.pretrained or settings.checkpoint or tag not in _tags(model.replace("/", "-")):
        return settings
    return replace(settings, model=model, pretrained=tag)


def _demo(settings: EncoderSettings) -> ModelSource:
    shipped = register_demo_model()
    if settings.pretrained:
        raise EncoderError(
            f"model {DEMO_MODEL!r} brings its own weights: expected an empty pretrained, got "
            f"{settings.pretrained!r}. Leave it empty, or name the model that the tag is of."
        )
    _log.warning(
        "%s is a demonstration model: it knows rendered table tops and nothing else. Set model "
        "and pretrained (for example ViT-B-32 and laion2b_s34b_b79k) for real images.",
        DEMO_MODEL,
    )
    checkpoint = _path(settings.checkpoint) if settings.checkpoint else shipped
    config = open_clip.get_model_config(DEMO_MODEL)
    return ModelSource(DEMO_MODEL, DEMO_MODEL, DEMO_MODEL, checkpoint, config)


def _from_tag(settings: EncoderSettings, name: str, config: Mapping[str, Any]) -> ModelSource:
    tag = open_clip.get_pretrained_cfg(name, settings.pretrained)
    if not tag:
        hint = ""
        if Path(settings.pretrained).expanduser().is_file():
            hint = " It is a file: give it as checkpoint."
        raise EncoderError(
            f"pretrained: expected {_any_of(_tags(name))} for model {name!r}, got "
            f"{settings.pretrained!r}.{hint}"
        )
    twin = f"{name}-quickgelu"
    twin_config = open_clip.get_model_config(twin)
    if tag.get("quick_gelu") and not config.get("quick_gelu") and twin_config is not None:
        # open_clip only warns, and the embeddings are quietly worse: another activation.
        _log.warning(
            "The weights %s were trained with QuickGELU: using model %s instead of %s.",
            settings.pretrained, twin, name,
        )  # fmt: skip
        name, config = twin, twin_config
    cache_dir = settings.download_dir or None
    path = _download(
        lambda: download_pretrained(tag, cache_dir=cache_dir),
        f"the weights {settings.pretrained!r} of {name!r}",
        _repository(tag),
    )
    # The size is that of the architecture; open_clip overrides the tag's in the same way.
    preprocess = {key: value for key, value in tag.items() if key != "size"}
    return ModelSource(
        name, name, name, Path(path), config, preprocess, is_published=True, cache_dir=cache_dir
    )


def _from_hub(settings: EncoderSettings) -> ModelSource:
    repository = settings.model[len(_HUB) :]
    cache_dir = settings.download_dir or None

    def fetch(filename: str | None) -> str:
        return str(download_pretrained_from_hf(repository, filename, cache_dir=cache_dir))

    found = _download(lambda: fetch(_CONFIG), f"{_CONFIG} of {settings.model!r}", repository)
    config = _read_config(Path(found))
    _check_packages(settings.model, config)
    if settings.checkpoint:
        checkpoint, published = _path(settings.checkpoint), False
    else:
        what = f"the weights of {settings.model!r}"
        checkpoint, published = Path(_download(lambda: fetch(None), what, repository)), True
    # The folder in the hub's cache is read as a local one: no second trip to the network.
    architecture = f"{_LOCAL}{Path(found).parent}"
    return ModelSource(
        settings.model, architecture, settings.model, checkpoint, config,
        is_published=published, cache_dir=cache_dir,
    )  # fmt: skip


def _from_folder(settings: EncoderSettings) -> ModelSource:
    folder = _path(settings.model[len(_LOCAL) :])
    if not (folder / _CONFIG).is_file():
        raise EncoderError(
            f"model {settings.model!r}: expected {_CONFIG} and weights in {folder}, got "
            f"{'a folder without it' if folder.is_dir() else 'no such folder'}. Check the path."
        )
    config = _read_config(folder / _CONFIG)
    _check_packages(settings.model, config)
    checkpoint = _path(settings.checkpoint) if settings.checkpoint else _weights_in(folder)
    # The path is no part of the name: a folder that moved holds the same model.
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    architecture = f"{_LOCAL}{folder}"
    return ModelSource(f"{_LOCAL}{digest}", architecture, architecture, checkpoint, config)


def _weights_in(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    for name in _SAFE_NAMES:
        if folder / name in found:
            return folder / name
    safe = [path for path in found if path.suffix == ".safetensors"]
    choice = safe or found
    if len(choice) != 1:
        raise CheckpointError(
            f"{folder}: expected one weights file ({', '.join(SUFFIXES)}), got "
            f"{[path.name for path in choice] or 'none'}. Name the one you mean in checkpoint."
        )
    return choice[0]


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        if not isinstance(config, dict):
            raise TypeError(f"model_cfg is {type(config).__name__}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"{path} is no open_clip configuration: expected JSON with model_cfg, got "
            f"{error!r}. Check that the model was exported by open_clip."
        ) from error
    if _asks_for_code(config):
        # open_clip hands tokenizer_kwargs of a configuration on to transformers as they are.
        raise EncoderError(
            f"{path} asks for trust_remote_code, which would execute code that comes with the "
            "model: expected a configuration without it. Use another model."
        )
    return config


def _check_packages(name: str, config: Mapping[str, Any]) -> None:
    """Raise before gigabytes are downloaded for a model that cannot be built.

    Raises:
        EncoderError: If the text tower or its tokenizer is of transformers, which is not here.
    """
    text = config.get("text_cfg", {})
    if not (text.get("hf_tokenizer_name") or text.get("hf_model_name")):
        return
    if importlib.util.find_spec("transformers") is None:
        raise EncoderError(
            f"model {name!r} needs the package transformers for its instructions, and it is not "
            "installed. Install what it needs: pip install transformers sentencepiece"
        )


def _asks_for_code(config: object) -> bool:
    if isinstance(config, Mapping):
        return bool(config.get("trust_remote_code")) or any(map(_asks_for_code, config.values()))
    return isinstance(config, list) and any(map(_asks_for_code, config))


def _download(fetch: Callable[[], _T], what: str, repository: str) -> _T:
    try:
        return fetch()
    except Exception as error:  # errors of hub, HTTP and socket share no other base
        by_hand = f": hf download {repository}" if repository else ""
        raise EncoderError(
            f"Cannot get {what}: expected it in the cache or on the network, got {error} "
            f"Where there is a network, download it beforehand{by_hand} (the robot then needs "
            "the same HF_HOME, and HF_HUB_OFFLINE=1 spares it the attempt), or copy the weights "
            "file to the robot and set checkpoint to it."
        ) from error


def _repository(tag: Mapping[str, Any]) -> str:
    parts = str(tag.get("hf_hub", "")).split("/")
    return "/".join(parts[:2]) if len(parts) > 1 else ""


def _unknown_model(name: str) -> EncoderError:
    model, _, tag = name.rpartition("/")
    tags = _tags(model.replace("/", "-"))
    if tags:  # the model is known: it is the weights' tag that is not
        hint = did_you_mean(tag, tags)
        return EncoderError(
            f"model: expected {_any_of(tags)} after {model}/, got {tag!r}. {hint}".rstrip()
        )
    known = {model.lower(): model for model in [*open_clip.list_models(), DEMO_MODEL]}
    near = [known[m] for m in difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.5)]
    hint = f"Did you mean {_any_of(near)}? " if near else ""
    return EncoderError(
        f"model: expected one of open_clip's {len(known)} models, hf-hub:<owner>/<name> or "
        f"local-dir:<path>, got {name!r}. {hint}All of them: {_LIST_MODELS}"
    )


def _tags(name: str) -> list[str]:
    return list(open_clip.list_pretrained_tags_by_model(name))


def _any_of(names: list[str]) -> str:
    return ", ".join(map(repr, names)) if names else "a tag (open_clip knows none)"


def _path(text: str) -> Path:
    return Path(text).expanduser()
