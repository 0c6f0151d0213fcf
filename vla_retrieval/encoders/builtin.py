"""The demonstration model that ships with the package, in ``demo/model``."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip

from vla_retrieval.encoders.settings import DEMO_MODEL
from vla_retrieval.errors import CheckpointError, EncoderError
from vla_retrieval.shipped import find_shipped

_CONFIG = f"{DEMO_MODEL}.json"
_WEIGHTS = f"{DEMO_MODEL}.safetensors"


def register_demo_model() -> Path:
    """Make the demonstration model known to open_clip, and return its weights file.

    Raises:
        ShippedFileError: If its configuration is not found.
        EncoderError: If that is no model configuration.
        CheckpointError: If the weights are not beside it.
    """
    config = find_shipped(f"model/{_CONFIG}")
    folder = config.parent
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
