"""Which gallery positions are relevant to which frame, as an evaluation's settings say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vla_retrieval.evaluation import trec
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.relevance import ByKey, ForGallery, Labels, normalise, read_labels
from vla_retrieval.experiments.settings import ExperimentSettings


class Judge:
    """Judges some frames after others.

    Args:
        gallery: What is searched, in the order of its positions.
        settings: What makes an entry relevant.

    Raises:
        InvalidInputError: If the file with labels or qrels cannot be read.
    """

    def __init__(self, gallery: Sequence[Frame], settings: ExperimentSettings) -> None:
        """Look through the gallery."""
        self._by_file: ForGallery | None = None
        if settings.relevance == "qrels":
            assert settings.relevance_file is not None
            self._by_file = ForGallery(
                trec.read_qrels(settings.relevance_file), range(len(gallery))
            )
            return
        self._key = _key(settings)
        self._by_key = ByKey(range(len(gallery)), map(self._key, gallery))

    @property
    def most(self) -> int:
        """Entries that are relevant to a frame, at most."""
        return (self._by_file or self._by_key).most

    def qrels(self, frames: Sequence[Frame]) -> Qrels:
        """Return which gallery positions are relevant to some frames."""
        query_ids = [frame.query_id for frame in frames]
        if self._by_file is not None:
            return self._by_file.qrels(query_ids)
        return self._by_key.qrels(query_ids, list(map(self._key, frames)))

    def notes(self, frames: Sequence[Frame]) -> tuple[str, ...]:
        """Return sentences about what could not be judged of some frames."""
        if self._by_file is None:
            return ()
        return self._by_file.notes(frame.query_id for frame in frames)


def _key(settings: ExperimentSettings) -> Callable[[Frame], str]:
    if settings.relevance == "episode":
        return lambda frame: frame.episode_id
    compared: Callable[[str], str] = normalise
    if settings.relevance == "labels":
        assert settings.relevance_file is not None
        compared = Labels(read_labels(settings.relevance_file))
    known: dict[str, str] = {}

    def key(frame: Frame) -> str:
        text = frame.instruction
        if text not in known:
            known[text] = compared(text)
        return known[text]

    return key
