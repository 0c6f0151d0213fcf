"""The demonstration model that ships with the package.

Its files lie in ``demo/model`` of the source tree, and are installed to
``<prefix>/share/vla_retrieval/demo/model``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import open_clip

from vla_retrieval.encoders.settings import DEMO_MODEL
from vla_retrieval.errors import CheckpointError, EncoderError

_IN_SOURCE = Path("demo") / "model"
_IN_PREFIX = Path("share") / "vla_retrieval" / "demo" / "model"
_CONFIG = f"{DEMO_MODEL}.json"
_WEIGHTS = f"{DEMO_MODEL}.safetensors"


def register_demo_model() -> Path:
    """Make the demonstration model known to open_clip, and return its weights file.

    Raises:
        EncoderError: If its configuration is not found or is none.
        CheckpointError: If the weights are not beside it.
    """
    folder = find_demo_folder()
    config = folder / _CONFIG
    try:
        wanted = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"{config} cannot be read: expected an open_clip model configuration, got {error}. "
            "Install the package again."
        ) from error
    if open_clip.get_model_config(DEMO_MODEL) != wanted:
        # Only when it changed: each call makes open_clip read all of its configurations anew.
        open_clip.add_model_config(config)
    if open_clip.get_model_config(DEMO_MODEL) != wanted:  # it passes over what is none
        raise EncoderError(
            f"{config} is no open_clip model configuration: expected embed_dim, vision_cfg and "
            f"text_cfg, got {list(wanted)}. Install the package again."
        )
    if not (folder / _WEIGHTS).is_file():
        raise CheckpointError(
            f"The demonstration model has no weights: expected {folder / _WEIGHTS}, got "
            "nothing. Install the package again, or check that its large files were fetched."
        )
    return folder / _WEIGHTS


def find_demo_folder() -> Path:
    """Return the folder with the demonstration model's configuration.

    Searched in this order: the source tree of this file (which a symlinked install leads to),
    the prefix in which this file is installed, and each prefix of ``AMENT_PREFIX_PATH``, as the
    ament index would; rclpy and ament are not needed for it.

    Raises:
        EncoderError: If it is in none of them.
    """
    for folder in _candidates():
        if (folder / _CONFIG).is_file():
            return folder
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "")
    raise EncoderError(
        f"The demonstration model {DEMO_MODEL!r} is not found: expected {_CONFIG} in "
        f"{_source_folder()}, or in {_IN_PREFIX} of the prefix where this package is installed "
        f"or of AMENT_PREFIX_PATH={prefixes!r}, got neither. Source the workspace's setup file, "
        "install the package again, or set model to an open_clip model."
    )


def _candidates() -> Iterator[Path]:
    yield _source_folder()
    for parent in Path(__file__).absolute().parents:
        yield parent / _IN_PREFIX
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix) / _IN_PREFIX


def _source_folder() -> Path:
    return Path(__file__).resolve().parents[2] / _IN_SOURCE
