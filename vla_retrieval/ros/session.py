"""What exists while the node is configured: encoder, memory, worker, and the counters."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Literal, get_args

from vla_retrieval.encoders import Encoder, EncoderSettings, load_encoder
from vla_retrieval.heads import load_head
from vla_retrieval.memory import Eviction, Memory, MemoryOptions
from vla_retrieval.projection import Head, name_of
from vla_retrieval.retriever import Retriever
from vla_retrieval.ros.frames import FrameReader
from vla_retrieval.ros.freshness import LastAnswers
from vla_retrieval.ros.parameters import BYTES_PER_MB, Settings
from vla_retrieval.ros.worker import InferenceWorker
from vla_retrieval.types import Remembered, Similarity

_log = logging.getLogger(__name__)

Count = Literal[
    "frames_received",
    "frames_rejected",
    "frames_skipped",
    "queries_answered",
    "queries_failed",
    "entries_remembered",
    "entries_merged",
    "entries_forgotten",
]
COUNTS: tuple[Count, ...] = get_args(Count)


class Counters:
    """Counts since the node was activated; any thread may count."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = threading.Lock()  # a Counter's += is a read and a write
        self._counts: Counter[str] = Counter()

    def add(self, what: Count, many: int = 1) -> None:
        """Count."""
        with self._lock:
            self._counts[what] += many

    def count_remembered(self, remembered: Remembered) -> None:
        """Count one pair, as stored or as merged."""
        self.add("entries_merged" if remembered.merged else "entries_remembered")

    def get(self, what: Count) -> int:
        """Return a count."""
        with self._lock:
            return self._counts[what]

    def reset(self) -> None:
        """Start at zero again."""
        with self._lock:
            self._counts.clear()


class Session:
    """The configured node's belongings, opened together and closed together."""

    def __init__(self, settings: Settings) -> None:
        """Load the encoder, open the memory, start the worker.

        Raises:
            InvalidInputError: If a setting is out of its range.
            EncoderError: If the model cannot be loaded.
            HeadError: If the head cannot be read, or was made for another model.
            StorageError: If the memory directory cannot be used, or is another model's.
        """
        self.settings = settings
        self.encoder: Encoder = load_encoder(
            EncoderSettings(
                model=settings.model,
                pretrained=settings.pretrained,
                checkpoint=settings.checkpoint,
                device=settings.device,
                engine=settings.engine,
                engine_cache_dir=settings.engine_cache_dir,
                precision=settings.precision,
                threads=settings.threads,
            )
        )
        self.encoder.warm_up()
        self.similarity = Similarity(settings.similarity)
        head = self.load_head(settings.head_path)
        self.memory = Memory.open(
            settings.memory_path,
            self.encoder.fingerprint,
            self.similarity,
            durable=settings.durable,
            options=memory_options(settings),
            head=head,
        )
        self.retriever = Retriever(self.encoder, self.memory, settings.thumbnail_px)
        self.reader = FrameReader(self.encoder, settings.max_image_pixels)
        self.last_answers = LastAnswers()
        # The encoder keeps what it embedded, so the requests find it there.
        self.worker = InferenceWorker(
            settings.max_waiting_requests, self.encoder.encode_instructions
        )
        _log.info(
            "ready: %s on %s (%s, %s), head %s, %d entries in %s",
            self.encoder.fingerprint.model, self.encoder.device, self.encoder.engine,
            self.encoder.precision, name_of(head), self.memory.stats().entries,
            settings.memory_path,
        )  # fmt: skip

    def load_head(self, path: Path | None) -> Head | None:
        """Return the head in a file, or None without a path; it is not used yet.

        Raises:
            HeadError: If it cannot be read, or was made for another model.
        """
        return None if path is None else load_head(path, self.encoder.fingerprint)

    def close(self) -> None:
        """Finish the job in hand, give up those that wait, close the memory."""
        self.worker.close()
        self.memory.close()


def memory_options(settings: Settings) -> MemoryOptions:
    """Return how the parameters want the memory run.

    Raises:
        InvalidInputError: If a value is out of its range.
    """
    return MemoryOptions(
        index=settings.index,
        index_bytes=settings.index_memory_mb * BYTES_PER_MB,
        recall_target=settings.recall_target,
        search_threads=settings.search_threads,
        build_threads=settings.build_threads,
        max_entries=settings.max_entries,
        max_bytes=settings.max_memory_mb * BYTES_PER_MB,
        eviction=Eviction(settings.eviction),
        merge_scene=settings.merge_scene_similarity,
        merge_instruction=settings.merge_instruction_similarity,
        merge_within_sec=settings.merge_within_sec,
    )
