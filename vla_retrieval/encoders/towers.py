"""The two towers of a model as modules, and how many tokens the text tower has to read.

A causal text tower looks only backwards, so what follows the end-of-text token, whose output is
the embedding, changes nothing: cutting it off is exact, and most instructions need 8 to 16 of 77
tokens. Towers that look both ways (SigLIP) read the padding too and always get all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer, text_global_pool

_LADDER = (8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class TextCut:
    """Where rows of tokens may be cut.

    Attributes:
        context_length: Tokens in a whole row.
        pool_type: ``argmax`` or ``eos``, how the tower finds the end; empty where nothing may
            be cut.
        eos_id: The token that ends a text, for ``eos``.
    """

    context_length: int
    pool_type: str = ""
    eos_id: int = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that rows can have, ascending; the last is the whole context.

        They are few, because an engine prepares itself for each length that it meets.
        """
        short = _LADDER if self.pool_type else ()
        return (*(length for length in short if length < self.context_length), self.context_length)

    def cut(self, tokens: torch.Tensor) -> torch.Tensor:
        """Cut rows after the last end of text among them, up to the next of `lengths`.

        Args:
            tokens: int64, shape ``(n, context_length)``, n at least 1.

        Returns:
            int64, shape ``(n, length)``, contiguous.
        """
        if not self.pool_type or tokens.shape[1] != self.context_length:
            return tokens
        is_end = (tokens == self.eos_id).int() if self.pool_type == "eos" else tokens
        used = int(is_end.argmax(dim=1).max()) + 1
        length = next(length for length in self.lengths if length >= used)
        return tokens[:, :length].contiguous()


class ImageTower(torch.nn.Module):
    """A model's image tower.

    Args:
        model: open_clip's.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed normalised pixels, float, ``(n, 3, height, width)``, as ``(n, dim)``."""
        embedded: torch.Tensor = self._model.encode_image(pixels)
        return embedded


class TextTower(torch.nn.Module):
    """A model's text tower, which reads rows of any length where they may be cut.

    open_clip's own ``encode_text`` adds the position embeddings and the mask of the whole
    context, which do not fit to shorter rows.

    Args:
        model: open_clip's.
        context_length: Tokens in a whole row.
    """

    def __init__(self, model: Any, context_length: int) -> None:
        super().__init__()
        self._model = model
        self._text = getattr(model, "text", model)
        self.cut = _find_cut(model, context_length)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed token ids, int64, ``(n, length)``, as ``(n, dim)``."""
        if not self.cut.pool_type:
            whole: torch.Tensor = self._model.encode_text(tokens)
            return whole
        text, length = self._text, tokens.shape[1]
        first = torch.arange(length, device=tokens.device)
        x = text.token_embedding(tokens) + text.positional_embedding.index_select(0, first)
        # Made here and not sliced from the model's: quantisation would stumble over a constant
        # that holds infinities.
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        x = text.ln_final(text.transformer(x, attn_mask=mask))
        pooled = text_global_pool(x, tokens, self.cut.pool_type, eos_token_id=self.cut.eos_id)
        projection = text.text_projection
        if projection is None:
            return pooled
        projected: torch.Tensor = (
            projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection
        )
        return projected


def _find_cut(model: Any, context_length: int) -> TextCut:
    """Return where the model's rows may be cut: nowhere, unless it is of a kind known here."""
    text = getattr(model, "text", model)
    if isinstance(text, TextTransformer):
        is_plain = text.cls_emb is None and not text.use_pad_mask and not text.output_tokens
        pool_type, eos_id = text.pool_type, text.eos_id
    elif type(text) is open_clip.CLIP:
        is_plain, pool_type = True, text.text_pool_type
        eos_id = getattr(text, "text_eos_id", None)
    else:
        return TextCut(context_length)
    can_be_cut = is_plain and text.attn_mask is not None and pool_type in ("argmax", "eos")
    if not can_be_cut or (pool_type == "eos" and eos_id is None):
        return TextCut(context_length)
    return TextCut(context_length, pool_type, int(eos_id or 0))
