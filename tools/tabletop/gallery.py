"""Galleries to measure on: held-out scenes, their pictures, and what is asked about them."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import Image

from tools.tabletop.dataset import SceneTable, split_rng
from tools.tabletop.language import Instruction, full_instruction, sample_instruction
from tools.tabletop.scene import Scene, sample_scene
from tools.tabletop.truth import truth_matrix
from tools.tabletop.vocabulary import Split

WIDTH: Final = 640
HEIGHT: Final = 480
JPEG_QUALITY: Final = 90
GALLERY_SEED: Final = 101
_TRIES: Final = 60


@dataclass(frozen=True)
class Gallery:
    """Held-out scenes and the pictures of them that a robot's camera would publish."""

    scenes: list[Scene]
    pictures: list[Image.Image]

    @property
    def table(self) -> SceneTable:
        """The scenes as arrays."""
        return SceneTable.of(self.scenes)


def build_gallery(split: Split, size: int, seed: int = GALLERY_SEED) -> Gallery:
    """Draw and render ``size`` scenes, 640 x 480, through JPEG as a camera topic carries them."""
    # Rendering needs OpenGL; who only samples instructions should not.
    from tools.tabletop.render import Renderer, sample_view

    rng = split_rng(seed, split, 0)
    renderer = Renderer(WIDTH, HEIGHT)
    scenes, pictures = [], []
    for _ in range(size):
        scene = sample_scene(rng, split)
        scenes.append(scene)
        pictures.append(_through_jpeg(Image.fromarray(renderer.render(scene, sample_view(rng)))))
    renderer.close()
    return Gallery(scenes, pictures)


def _through_jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def unique_instructions(
    gallery: Gallery, split: Split, per_scene: int, seed: int = GALLERY_SEED
) -> list[Instruction]:
    """Instructions with attributes left out at random that exactly one scene satisfies.

    Args:
        gallery: The scenes.
        split: The split that they come from.
        per_scene: How many to draw for each scene; fewer where sixty draws do not find them.
        seed: Seeds the draws.
    """
    rng = split_rng(seed, split, 1)
    return _unique(
        gallery,
        per_scene,
        lambda scene: [sample_instruction(rng, scene) for _ in range(_TRIES)],
    )


def full_instructions(
    gallery: Gallery, split: Split, per_scene: int, seed: int = GALLERY_SEED
) -> list[Instruction]:
    """Instructions that describe two objects in full and that exactly one scene satisfies.

    The target is an object whose combination of colour, kind and place belongs to the split: one
    that training never showed, unless the split is training's own.

    Args:
        gallery: The scenes.
        split: The split that they come from.
        per_scene: How many to draw for each scene at most.
        seed: Seeds the draws.
    """
    rng = split_rng(seed, split, 6)

    def draw(scene: Scene) -> list[Instruction]:
        targets = [item for item in scene.objects if item.split == split]
        return [
            full_instruction(rng, scene, targets[int(rng.integers(len(targets)))])
            for _ in range(_TRIES)
        ]

    return _unique(gallery, per_scene, draw)


def _unique(
    gallery: Gallery, per_scene: int, draw: Callable[[Scene], list[Instruction]]
) -> list[Instruction]:
    table = gallery.table
    found: list[Instruction] = []
    for scene in gallery.scenes:
        drawn = list(dict.fromkeys(draw(scene)))
        only_here = truth_matrix(drawn, table).sum(axis=1) == 1
        keep = [instruction for instruction, only in zip(drawn, only_here, strict=True) if only]
        found.extend(keep[:per_scene])
    return found
