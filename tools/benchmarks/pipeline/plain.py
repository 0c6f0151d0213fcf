"""open_clip's model as it comes, which engines are compared with."""

from __future__ import annotations

from typing import Any

import torch

from vla_retrieval.encoders import EncoderSettings
from vla_retrieval.encoders.open_clip_encoder import build
from vla_retrieval.encoders.sources import resolve
from vla_retrieval.encoders.weights import load_weights, read_state_dict


def plain_model(settings: EncoderSettings, device: torch.device) -> Any:
    """Return open_clip's own model with its weights, in fp32, for inference."""
    source = resolve(settings)
    model = build(source)
    state = read_state_dict(source.checkpoint)
    load_weights(model, state, str(source.checkpoint), may_resize=source.is_published)
    return model.eval().requires_grad_(False).to(device)
