"""Instructions to token ids, by the model's own tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

_WORDS_KEPT = 20_000
"""Words whose pieces open_clip's tokenizer may remember; a Chinese sentence is one word to it."""

_CHARACTERS_PER_TOKEN = 16
"""More than any text has over the length of a context: English has 4 to 5, Chinese under 1."""


class InstructionTokenizer:
    """Wraps a tokenizer of open_clip: safe under concurrent calls, of bounded size.

    Args:
        tokenizer: As ``open_clip.get_tokenizer`` returns it.
        context_length: Tokens that the model reads.
    """

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._first_words = dict(getattr(tokenizer, "cache", {}))
        # Protects the tokenizer: those of transformers set their truncation per call, and two
        # calls at a time raise "Already borrowed".
        self._lock = threading.Lock()

    @property
    def context_length(self) -> int:
        """Tokens that the model reads, those for start and end included."""
        return self._context_length

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Return token ids, int64, shape ``(len(texts), context_length)``, cut to fit."""
        return self._call(texts, self._context_length)

    def truncates(self, text: str) -> bool:
        """Return whether the text is longer than what the model reads of it."""
        row = self.tokenize([text])[0]
        if len(row) > 1 and row[-1] == row[-2]:
            return False  # padding at the end: the common case, without a second pass
        longer = self._call([text], 2 * self._context_length)[0]
        rest = longer[len(row) :]
        return not (torch.equal(longer[: len(row)], row) and bool((rest == rest[-1]).all()))

    def _call(self, texts: Sequence[str], context_length: int) -> torch.Tensor:
        readable = [_beginning(text, _CHARACTERS_PER_TOKEN * context_length) for text in texts]
        with self._lock:
            tokens: torch.Tensor = self._tokenizer(readable, context_length=context_length)
            words = getattr(self._tokenizer, "cache", None)
            if isinstance(words, dict) and len(words) > _WORDS_KEPT:
                # open_clip never forgets a word; a robot that runs for months must.
                words.clear()
                words.update(self._first_words)
        return tokens.to(torch.int64)


def _beginning(text: str, size: int) -> str:
    """Return the part of a very long text that a tokenizer can possibly use.

    open_clip's takes six seconds, which nothing can interrupt, for a word of 10000 letters.
    """
    if len(text) <= size:
        return text
    return " ".join(text.split())[:size]  # tokenizers collapse white space themselves
