"""Long bags: of as many frames as was asked for, and whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="writing bags needs rosbags")

from rosbags.rosbag2 import Reader

from tools.benchmarks import long_bag
from tools.benchmarks.long_bag import stored_bag


def stamps_of_frames(bag: Path) -> list[int]:
    """Return when each frame of a bag was recorded."""
    with Reader(bag) as reader:
        return [at for c, at, _ in reader.messages() if c.topic == long_bag._IMAGES]


def test_a_long_bag_has_its_frames_under_ascending_stamps(tmp_path: Path) -> None:
    once = len(stamps_of_frames(long_bag._DEMO / "bag"))
    stamps = stamps_of_frames(stored_bag(tmp_path, once + 20))

    assert len(stamps) == once + 20
    assert stamps == sorted(set(stamps))


def test_a_bag_whose_writing_broke_off_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = long_bag.write_long_bag

    def break_off(target: Path, frames: int) -> None:
        write(target, frames // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(long_bag, "write_long_bag", break_off)
    with pytest.raises(KeyboardInterrupt):
        stored_bag(tmp_path, 10)
    monkeypatch.setattr(long_bag, "write_long_bag", write)

    assert len(stamps_of_frames(stored_bag(tmp_path, 10))) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["bag10"]
