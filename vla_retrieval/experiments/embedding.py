"""Bags as a memory of embedded frames, for those who learn from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vla_retrieval.encoders import Encoder
from vla_retrieval.evaluation.frame_lists import joined
from vla_retrieval.evaluation.frames import ReadOptions
from vla_retrieval.evaluation.recordings import read_recordings
from vla_retrieval.evaluation.splits import thin
from vla_retrieval.experiments import filling, frame_store
from vla_retrieval.experiments.stages import Progress, StageSeconds
from vla_retrieval.memory import Memory
from vla_retrieval.types import Similarity


@contextmanager
def embedded_bags(
    paths: Sequence[Path],
    encoder: Encoder,
    reading: ReadOptions,
    every_sec: float,
    work: Path,
    progress: Progress = lambda doing, done, total: None,
) -> Iterator[Memory]:
    """Lend a memory with the frames of bags that have a picture, each with its episode.

    Args:
        paths: Of rosbag2 folders or files.
        encoder: Makes the embeddings.
        reading: How bags are read.
        every_sec: Frames of a camera closer than this to the one before are left out; 0: none is.
        work: Folder that keeps what was embedded; a second call goes on from there.
        progress: Told how far it is.

    Raises:
        InvalidInputError: If a bag cannot be read, or the work folder is of others.
        StorageError: If the work folder cannot be used.
    """
    recordings = read_recordings(paths, reading)
    frames, _ = thin(joined([recording.frames for recording in recordings]), every_sec)
    source = frame_store.source_of(paths, reading, every_sec)
    with frame_store.open_store(work, encoder, Similarity.COSINE, source) as memory:
        filling.fill(memory, frames, encoder, StageSeconds(), progress)
        yield memory
