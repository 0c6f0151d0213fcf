"""A long bag needs no more RAM than a short one, but for some bytes a frame."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from test.evaluation.writers import Recorded, write_rosbags
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.evaluation import bootstrap
from vla_retrieval.experiments import frame_store, offline, ranked, scoring, searching
from vla_retrieval.experiments.offline import evaluate_bags
from vla_retrieval.experiments.settings import ExperimentSettings

DEPTH = 100
FRAMES_AN_EPISODE = 10
WORDS = ["pick up the cup", "打开抽屉", "find the ball"]


def peak_bytes(frames: int, folder: Path) -> int:
    """Evaluate a bag of so many frames and return the most that was allocated at a time."""
    recorded = Recorded()
    for number in range(frames):
        if number % FRAMES_AN_EPISODE == 0:
            recorded.say(number, WORDS[number // FRAMES_AN_EPISODE % len(WORDS)])
        recorded.see(number + 0.5)
    folder.mkdir()
    bag = write_rosbags(folder / "bag", recorded, "sqlite3")
    del recorded
    settings = ExperimentSettings(depth=DEPTH)
    tracemalloc.start()
    try:
        outcome = evaluate_bags([bag], DoubleEncoder(), settings, folder / "work")
        assert outcome.evaluation.counts["frames"] == frames
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_the_ram_of_an_evaluation_stays_flat_in_the_length_of_the_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Even a short bag has more than is looked at at once.
    for module, name, value in (
        (bootstrap, "CHUNK_CELLS", 1 << 12), (ranked, "_ROWS", 16), (ranked, "_JUDGEMENTS", 1 << 9),
        (ranked, "_HELD", 1 << 12), (searching, "_ROWS", 16), (scoring, "_AT_ONCE", 16),
        (frame_store, "_READ_AT_ONCE", 16), (offline, "_ON_THE_MAP", 16),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    peak_bytes(60, tmp_path / "warm")  # modules, caches
    short, long = peak_bytes(300, tmp_path / "short"), peak_bytes(900, tmp_path / "long")
    a_ranking = DEPTH * 16  # of one direction; three are searched for each frame that asks
    assert (long - short) / 600 < a_ranking
