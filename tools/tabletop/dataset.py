"""Training pictures on disk: rendered once, kept outside the repository, memory-mapped.

Run ``python -m tools.tabletop.dataset --out FOLDER`` to render them. Picture ``2 i + 1`` shows
scene ``2 i`` altered in one respect. The same seed gives the same pictures on the same OpenGL
driver, however many processes share the work.
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tools.tabletop.scene import MAX_OBJECTS, Scene, TableObject, altered, sample_scene
from tools.tabletop.vocabulary import COLOURS, KINDS, Split

PICTURE_SIZE: Final = 144
"""Side of a cached picture in pixels; training cuts its 128-pixel views out of it."""
_CHUNK: Final = 500
_SPLIT_KEYS: Final[dict[Split, int]] = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class SceneTable:
    """Scenes as arrays, for judging many instructions at once.

    Attributes:
        kinds: Index in ``KINDS``, int64 of shape ``(n, 4)``; -1 where there is no object.
        colours: Index in ``COLOURS``, likewise.
        positions: x and y in metres, float64 of shape ``(n, 4, 2)``; NaN where there is no object.
    """

    kinds: npt.NDArray[np.int64]
    colours: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]

    @staticmethod
    def of(scenes: Sequence[Scene]) -> "SceneTable":
        """The table of the given scenes, in order."""
        kinds = np.full((len(scenes), MAX_OBJECTS), -1, dtype=np.int64)
        colours = np.full((len(scenes), MAX_OBJECTS), -1, dtype=np.int64)
        positions = np.full((len(scenes), MAX_OBJECTS, 2), np.nan)
        for row, scene in enumerate(scenes):
            for slot, item in enumerate(scene.objects):
                kinds[row, slot] = KINDS.index(item.kind)
                colours[row, slot] = COLOURS.index(item.colour)
                positions[row, slot] = (item.x, item.y)
        return SceneTable(kinds, colours, positions)

    def __len__(self) -> int:
        return len(self.kinds)

    def rows(self, index: npt.NDArray[np.int64]) -> "SceneTable":
        """The table of the scenes at ``index``."""
        return SceneTable(self.kinds[index], self.colours[index], self.positions[index])

    def mirrored(self, flags: npt.NDArray[np.bool_]) -> "SceneTable":
        """The table with left and right exchanged in the rows where ``flags`` is true."""
        sign = np.where(flags, -1.0, 1.0)[:, None]
        positions = self.positions.copy()
        positions[:, :, 0] *= sign
        return SceneTable(self.kinds, self.colours, positions)

    def scene(self, row: int) -> Scene:
        """One row as a scene, without turns and variants: no instruction names those."""
        return Scene(
            tuple(
                TableObject(KINDS[kind], COLOURS[colour], float(x), float(y))
                for kind, colour, (x, y) in zip(
                    self.kinds[row], self.colours[row], self.positions[row], strict=True
                )
                if kind >= 0
            )
        )


def split_rng(seed: int, split: Split, part: int) -> np.random.Generator:
    """The generator of one part of a split; no two splits share a stream."""
    return np.random.default_rng([seed, _SPLIT_KEYS[split], part])


def _render_chunk(job: tuple[int, int]) -> tuple[int, npt.NDArray[np.uint8], list[Scene]]:
    # The OpenGL context must be made in the process that renders, so the import happens here.
    from tools.tabletop.render import Renderer, sample_view

    seed, part = job
    rng = split_rng(seed, "train", part)
    renderer = Renderer(PICTURE_SIZE, PICTURE_SIZE)
    scenes: list[Scene] = []
    pictures = np.empty((_CHUNK, PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8)
    for row in range(_CHUNK):
        scene = altered(rng, scenes[-1]) if row % 2 else sample_scene(rng, "train")
        scenes.append(scene)
        pictures[row] = renderer.render(scene, sample_view(rng))
    renderer.close()
    return part, pictures, scenes


def render_training_set(folder: Path, seed: int, count: int, processes: int) -> None:
    """Render ``count`` pictures (rounded up to whole chunks of 500) into ``folder``.

    Writes ``pictures.npy`` (uint8, ``(n, 144, 144, 3)``) and ``scenes.npz`` (the fields of
    ``SceneTable``), the latter when all pictures are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Of an earlier call, other scenes would pass for those of these pictures if this one broke off.
    (folder / "scenes.npz").unlink(missing_ok=True)
    parts = -(-count // _CHUNK)
    shape = (parts * _CHUNK, PICTURE_SIZE, PICTURE_SIZE, 3)
    pictures = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=shape
    )
    scenes: list[list[Scene]] = [[] for _ in range(parts)]
    with ProcessPoolExecutor(processes) as pool:
        for part, chunk, chunk_scenes in pool.map(
            _render_chunk, [(seed, part) for part in range(parts)]
        ):
            pictures[part * _CHUNK : (part + 1) * _CHUNK] = chunk
            scenes[part] = chunk_scenes
    pictures.flush()
    table = SceneTable.of([scene for part_scenes in scenes for scene in part_scenes])
    np.savez(
        folder / "scenes.npz", kinds=table.kinds, colours=table.colours, positions=table.positions
    )


def load_training_set(folder: Path) -> tuple[npt.NDArray[np.uint8], SceneTable]:
    """The memory-mapped pictures and their scenes, as ``render_training_set`` wrote them."""
    pictures = np.load(folder / "pictures.npy", mmap_mode="r")
    with np.load(folder / "scenes.npz") as fields:
        return pictures, SceneTable(fields["kinds"], fields["colours"], fields["positions"])


def main() -> None:
    """Render the training pictures."""
    parser = argparse.ArgumentParser(
        description="Render the training pictures of the demonstration model."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write to, outside the repository"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=60_000, help="pictures to render")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    render_training_set(options.out, options.seed, options.count, options.processes)


if __name__ == "__main__":
    main()
