from pathlib import Path

import pytest

from tools.tabletop import dataset
from tools.tabletop.dataset import load_training_set, render_training_set


class BrokenOff:
    """Stands for the processes that render, at Ctrl-C."""

    def __init__(self, processes: int) -> None:
        pass

    def __enter__(self) -> "BrokenOff":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_pictures_of_a_rendering_that_broke_off_are_not_taken_for_those_of_earlier_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scenes.npz").write_bytes(b"of an earlier call")
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", BrokenOff)
    with pytest.raises(KeyboardInterrupt):
        render_training_set(tmp_path, seed=8, count=1, processes=1)

    with pytest.raises(FileNotFoundError, match=r"scenes\.npz"):
        load_training_set(tmp_path)
