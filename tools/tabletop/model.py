"""The demonstration model: open_clip's own CLIP classes, with a small vocabulary while it trains.

CLIP's tokenizer knows 49408 tokens and the instructions use a few hundred of them. Training keeps
an embedding for those only; the export spreads them over the full table and leaves zeros everywhere
else, so that a token never met in training adds nothing of its own to an instruction.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import nn

MODEL_NAME: Final = "vla-retrieval-demo"
MODEL_FOLDER: Final = Path(__file__).resolve().parents[2] / "demo" / "model"
CONFIG_PATH: Final = MODEL_FOLDER / f"{MODEL_NAME}.json"
WEIGHTS_PATH: Final = MODEL_FOLDER / f"{MODEL_NAME}.safetensors"


def read_config() -> dict[str, Any]:
    """The open_clip configuration of the model."""
    config: dict[str, Any] = json.loads(CONFIG_PATH.read_text(encoding="utf-8"))
    return config


def register() -> None:
    """Make the model's name known to open_clip in this process."""
    open_clip.add_model_config(CONFIG_PATH)


def load_shipped(weights: Path = WEIGHTS_PATH) -> tuple[Any, Any, Any]:
    """The model in evaluation mode, its image preprocessing and its tokenizer."""
    register()
    model, _, preprocess = open_clip.create_model_and_transforms(
        MODEL_NAME, pretrained=str(weights)
    )
    return model.eval(), preprocess, open_clip.get_tokenizer(MODEL_NAME)


class CompactTokenizer:
    """CLIP's tokenizer with a corpus' tokens renumbered from 1; 0 is any other, and padding.

    The end-of-text token keeps the highest number, by which open_clip finds it.

    Args:
        corpus: Texts whose tokens are kept.
    """

    def __init__(self, corpus: Sequence[str]) -> None:
        self._context = int(read_config()["text_cfg"]["context_length"])
        self._tokenizer = SimpleTokenizer(context_length=self._context)
        used = np.unique(self._tokenizer(list(corpus)).numpy())
        self.tokens: npt.NDArray[np.int64] = used[used != 0]
        self._numbers = np.zeros(self._tokenizer.vocab_size, dtype=np.int64)
        self._numbers[self.tokens] = np.arange(1, len(self.tokens) + 1)

    @property
    def size(self) -> int:
        """How many numbers there are, 0 included."""
        return len(self.tokens) + 1

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Token numbers, int64 ``(n, longest)``: padding beyond the longest text is cut off."""
        numbers = self._numbers[self._tokenizer(list(texts)).numpy()]
        longest = int((numbers.argmax(axis=1)).max()) + 1
        return torch.from_numpy(np.ascontiguousarray(numbers[:, :longest]))


def compact_model(tokenizer: CompactTokenizer) -> nn.Module:
    """An untrained model whose token table has only the tokenizer's numbers; row 0 stays zero."""
    config = read_config()
    config["text_cfg"]["vocab_size"] = tokenizer.size
    model = open_clip.CLIP(**{key: value for key, value in config.items() if key != "model_cfg"})
    table = nn.Embedding(tokenizer.size, config["text_cfg"]["width"], padding_idx=0)
    with torch.no_grad():
        table.weight.normal_(std=0.02)
        table.weight[0] = 0.0
    model.token_embedding = table
    return model


def encode_trimmed_text(model: Any, numbers: torch.Tensor) -> torch.Tensor:
    """As ``model.encode_text(..., normalize=True)`` for texts whose common padding is cut off.

    The attention is causal, so cutting what follows the end-of-text token changes nothing but the
    cost.
    """
    length = numbers.shape[1]
    hidden = model.token_embedding(numbers) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    pooled = hidden[torch.arange(len(numbers)), numbers.argmax(dim=-1)]
    return nn.functional.normalize(pooled @ model.text_projection, dim=-1)


def export(state: dict[str, torch.Tensor], tokens: npt.NDArray[np.int64], path: Path) -> None:
    """Write float16 safetensors that open_clip loads strictly.

    Args:
        state: State of a ``compact_model``.
        tokens: The tokens of its table's rows from row 1 on.
        path: File to write.
    """
    text = read_config()["text_cfg"]
    table = torch.zeros(text["vocab_size"], text["width"])
    table[torch.from_numpy(tokens)] = state["token_embedding.weight"][1:]
    full = {**state, "token_embedding.weight": table}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: _halved(tensor) for name, tensor in full.items()}, str(path))


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
