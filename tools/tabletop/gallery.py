"""Galleries to measure on: held-out scenes, their pictures, and what is asked about them."""

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image

from tools.tabletop.dataset import SceneTable, split_rng
from tools.tabletop.language import Instruction, sample_instruction
from tools.tabletop.scene import Scene, TableObject, sample_scene
from tools.tabletop.truth import truth_matrix
from tools.tabletop.vocabulary import TEST_PAIRS, VALIDATION_PAIRS, Split

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


def held_out_pairs(split: Split) -> frozenset[tuple[str, str]]:
    """The pairs that only this split shows."""
    return {
        "train": frozenset[tuple[str, str]](),
        "validation": VALIDATION_PAIRS,
        "test": TEST_PAIRS,
    }[split]


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


def names_held_out_pair(instruction: Instruction, split: Split) -> bool:
    """Whether the instruction says colour and kind of an object that the split holds out."""
    return any(
        (phrase.colour, phrase.kind) in held_out_pairs(split) for phrase in instruction.phrases
    )


def unique_instructions(
    gallery: Gallery,
    split: Split,
    per_scene: int,
    seed: int = GALLERY_SEED,
    held_out_only: bool = True,
) -> list[tuple[Instruction, int]]:
    """Instructions that exactly one scene of the gallery satisfies, each with that scene's index.

    Args:
        gallery: The scenes.
        split: The split that they come from.
        per_scene: How many to draw for each scene; fewer where sixty draws do not find them.
        seed: Seeds the draws.
        held_out_only: Keep only instructions that name a held-out (colour, kind) pair.
    """
    rng = split_rng(seed, split, 1)
    table = gallery.table
    found: list[tuple[Instruction, int]] = []
    for index, scene in enumerate(gallery.scenes):
        drawn = list(dict.fromkeys(sample_instruction(rng, scene) for _ in range(_TRIES)))
        if held_out_only:
            drawn = [
                instruction for instruction in drawn if names_held_out_pair(instruction, split)
            ]
        if not drawn:
            continue
        unique = truth_matrix(drawn, table).sum(axis=1) == 1
        keep = [instruction for instruction, only in zip(drawn, unique, strict=True) if only]
        found.extend((instruction, index) for instruction in keep[:per_scene])
    return found


def held_out_objects(scene: Scene, split: Split) -> list[TableObject]:
    """The scene's objects whose pair the split holds out."""
    return [item for item in scene.objects if item.pair in held_out_pairs(split)]
