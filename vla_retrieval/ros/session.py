"""What the configured node has: encoder, memory, inference threads, and the counters."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, get_args

from vla_retrieval.encoders import Encoder, EncoderSettings, load_encoder
from vla_retrieval.errors import MemoryFullError, StorageError
from vla_retrieval.heads import load_head
from vla_retrieval.memory import Eviction, Memory, MemoryOptions
from vla_retrieval.memory.lock import check_free
from vla_retrieval.memory.names import DATABASE_NAME
from vla_retrieval.projection import Head, name_of
from vla_retrieval.retriever import Retriever
from vla_retrieval.ros.disk import DiskWatch, MemoryLostError, WriteGate
from vla_retrieval.ros.frames import FrameReader
from vla_retrieval.ros.freshness import LastAnswers
from vla_retrieval.ros.health import Health
from vla_retrieval.ros.lanes import Lanes
from vla_retrieval.ros.pace import Forecast
from vla_retrieval.ros.parameters import BYTES_PER_MB, Settings
from vla_retrieval.ros.pictures import Input, embed_together
from vla_retrieval.ros.worker import WorkerBusyError, effect
from vla_retrieval.types import Embeddings, NewEntry, Remembered, RgbImage, Similarity

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
    "frames_not_remembered",
]
COUNTS: tuple[Count, ...] = get_args(Count)

_LAST_JOB_SEC = 2.0
"""How long the node's end waits for the jobs in hand: `ros2 launch` sends SIGTERM after 5 s."""

_LAST_WRITE_SEC = 30.0
"""And for the memory to be closed: a million entries may have to be written to a slow disk."""

_LOOK_SEC = 1.0
"""From one look at the disk to the next, unless the diagnostics come more often."""


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

    def __init__(self, settings: Settings, health: Health) -> None:
        """Load the encoder, open the memory, start the inference threads.

        Args:
            settings: What the parameters say.
            health: Is told whether the memory can be written.

        Raises:
            InvalidInputError: If a setting is out of its range.
            EncoderError: If the model cannot be loaded.
            HeadError: If the head cannot be read, or was made for another model.
            StorageError: If the memory directory cannot be used, or is another model's.
        """
        self.settings = settings
        self.health = health
        check_free(settings.memory_path)  # loading a model takes a while
        self.encoder: Encoder = load_encoder(encoder_settings(settings))
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
        with ExitStack() as undo:
            # Else what fails from here on would keep the directory locked, to this process as well.
            undo.callback(self.memory.close)
            health.note_write(None)  # opening wrote; what kept an earlier session from it is over
            found = (settings.memory_path / DATABASE_NAME).stat()
            self._database = found.st_dev, found.st_ino
            self.gate = WriteGate(settings.memory_path)
            self.disk = DiskWatch(
                settings.memory_path, self.memory.stats, self.check_memory,
                min(_LOOK_SEC, settings.diagnostics_period_sec),
            )  # fmt: skip
            undo.callback(self.disk.stop)
            self.retriever = Retriever(self.encoder, self.memory, settings.thumbnail_px)
            self.reader = FrameReader(self.encoder, settings.max_image_pixels)
            self.last_answers = LastAnswers()
            self.forecast = Forecast()
            self.lanes = Lanes(
                settings.max_waiting_requests, settings.max_waiting_mb * BYTES_PER_MB,
                settings.worker_stall_sec, self._embed_ahead,
                pictures_ahead=self.encoder.device != "cpu",
            )  # fmt: skip
            undo.pop_all()
        _log.info(
            "ready: %s on %s (%s, %s), head %s, %d entries in %s",
            self.encoder.fingerprint.model, self.encoder.device, self.encoder.engine,
            self.encoder.precision, name_of(head), len(self.memory.entry_ids()),
            settings.memory_path,
        )  # fmt: skip

    def load_head(self, path: Path | None) -> Head | None:
        """Return the head in a file, or None without a path; it is not used yet.

        Raises:
            HeadError: If it cannot be read, or was made for another model.
        """
        return None if path is None else load_head(path, self.encoder.fingerprint)

    def _embed_ahead(self, inputs: Sequence[Input]) -> None:
        embed_together(inputs, self.encoder, self.settings.max_image_pixels)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Run a block that changes the memory, in an inference thread.

        It is not acknowledged unless the memory is still where it was opened. The diagnostics are
        told whether it could be written.

        Args:
            what: Is done in the block, for whoever waits should the disk not come back.

        Raises:
            StorageError: If the memory is lost, or an earlier change has not come back.
            WorkerStalledError: If the thread was replaced; then nothing is changed.
        """
        try:
            with self.gate.passing(), effect(what):
                self.check_memory()
                yield
                self.check_memory()
        except MemoryFullError:
            raise
        except StorageError as error:
            self.health.note_write(error)
            raise
        self.health.note_write(None)

    def remember(self, image: RgbImage, entry: NewEntry, scene: Embeddings | None) -> Remembered:
        """Store one pair and say what became of it, in an inference thread.

        Args:
            image: The scene.
            entry: Everything else.
            scene: The image's embedding, shape ``(dim,)``, where it is known already.

        Raises:
            InvalidInputError: If the image cannot be encoded.
            WorkerBusyError: If more was added than the memory has a new index for yet.
            WorkerStalledError: If the thread was replaced; then nothing is stored.
            StorageError: If the memory cannot be written, or is lost.
        """
        self.gate.check()  # before the image is encoded for nothing
        overdue = self.memory.overdue()
        if overdue:
            raise WorkerBusyError(
                f"the memory takes no new entries while its index is built anew: {overdue}. Try "
                "again later, or raise index_memory_mb."
            )
        return self.retriever.remember(image, entry, scene, self.writing("the pair was stored"))

    def check_memory(self) -> None:
        """Check that the memory can be used, and is where it was opened.

        A directory that was moved, removed or unmounted takes writes as before, and they are lost.

        Raises:
            MemoryLostError: If it is not.
            StorageError: If it may not even be looked at.
        """
        try:
            self.memory.check_usable()
        except StorageError as error:
            raise MemoryLostError(str(error)) from error
        path = self.settings.memory_path / DATABASE_NAME
        try:
            found = path.stat()
        except PermissionError as error:
            raise StorageError(
                f"cannot look at {path}: {error.strerror}. Let this user read and write "
                f"{self.settings.memory_path} again."
            ) from error
        except OSError as error:
            got = error.strerror or str(error)
        else:
            if (found.st_dev, found.st_ino) == self._database:
                return
            got = "another file of that name"
        raise MemoryLostError(
            f"{path}: expected the file that was opened, got: {got}. What is not in the directory "
            "now cannot be kept: bring the disk or the directory back."
        )

    def close(self) -> None:
        """Finish the jobs in hand, give up those that wait, close the memory.

        A job that does not come to an end is left behind. Should it be using the memory, that
        stays open, and so locked, until the job is done or the process ends.
        """
        self.disk.stop()
        ended = self.lanes.close(_LAST_JOB_SEC)
        closing = threading.Thread(target=self._close_memory, name="closing", daemon=True)
        closing.start()
        closing.join(_LAST_WRITE_SEC if ended else _LAST_JOB_SEC)
        locked = "; the memory stays locked until then" if closing.is_alive() else ""
        if not ended:
            _log.error(
                "a job of an inference thread did not end within %g s, and is left behind%s",
                _LAST_JOB_SEC, locked,
            )  # fmt: skip
        elif locked:
            _log.error(
                "%s was not closed within %g s: look at the disk%s",
                self.settings.memory_path, _LAST_WRITE_SEC, locked,
            )  # fmt: skip

    def _close_memory(self) -> None:
        try:
            self.memory.close()
        except StorageError as error:  # what was acknowledged is committed
            self.health.note_error(error)
            _log.error("%s", error)


def encoder_settings(settings: Settings) -> EncoderSettings:
    """Return which model the parameters want, and how it is to run.

    Raises:
        InvalidInputError: If a value is out of its range.
    """
    return EncoderSettings(
        model=settings.model,
        pretrained=settings.pretrained,
        checkpoint=settings.checkpoint,
        device=settings.device,
        engine=settings.engine,
        engine_cache_dir=settings.engine_cache_dir,
        precision=settings.precision,
        threads=settings.threads,
    )


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
