"""A bounded store of what was embedded before."""

from __future__ import annotations

import threading
from collections import OrderedDict

from vla_retrieval.types import Embeddings


class EmbeddingCache:
    """Keeps the embeddings of the texts that were used last.

    Args:
        capacity: Most texts kept; with 0 nothing is.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: OrderedDict[str, Embeddings] = OrderedDict()
        # Protects _rows: get() reorders, so even two readers would tear the order.
        self._lock = threading.Lock()

    def get(self, text: str) -> Embeddings | None:
        """Return the text's embedding, read-only, shape ``(dim,)``, or None."""
        with self._lock:
            row = self._rows.get(text)
            if row is not None:
                self._rows.move_to_end(text)
            return row

    def put(self, text: str, row: Embeddings) -> None:
        """Keep a copy of the row; the text that was unused for longest makes room."""
        if not self._capacity:
            return
        kept = row.copy()  # a view would keep its whole batch alive
        kept.flags.writeable = False
        with self._lock:
            self._rows[text] = kept
            self._rows.move_to_end(text)
            if len(self._rows) > self._capacity:
                self._rows.popitem(last=False)

    def __len__(self) -> int:
        """Return how many texts are kept."""
        with self._lock:
            return len(self._rows)
