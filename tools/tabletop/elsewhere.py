"""A place that the demonstration model never saw: other cameras, lamps, surfaces and clutter.

Camera, lamp and ambient light are drawn from outside the ranges of ``render.sample_view``; surfaces
have patterns, where the model saw wood and plain colours; and it never saw clutter.
"""

import io
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.tabletop.render import Clutter, Surroundings, View
from tools.tabletop.scene import CELL, MAX_OBJECTS, Scene

_CLUTTER: Final = (
    'type="capsule" size="0.008 0.055" euler="90 0 0" pos="0 0 0.008"',  # a pen
    'type="box" size="0.045 0.032 0.008" pos="0 0 0.008"',  # a notebook
    'type="cylinder" size="0.026 0.005" pos="0 0 0.005"',  # a coaster
    'type="ellipsoid" size="0.022 0.016 0.016" pos="0 0 0.016"',  # an egg
    'type="capsule" size="0.013 0.02" euler="90 0 0" pos="0 0 0.013"',  # a cork
)
_COLOURS: Final = (
    (0.78, 0.36, 0.46), (0.24, 0.12, 0.05), (0.06, 0.46, 0.46), (0.35, 0.35, 0.36),
    (0.28, 0.30, 0.06), (0.62, 0.50, 0.36),
)  # fmt: skip
"""Pink, brown, turquoise, grey, olive and sand: none is the colour of an object."""

_TOPS: Final = {
    "checked": ((204, 194, 172), (226, 218, 202)),
    "striped": ((122, 130, 140), (142, 150, 158)),
    "tiled": ((104, 140, 108), (128, 162, 130)),
    "marbled": ((52, 54, 60), (72, 76, 88)),
}
_GROUNDS: Final = {
    "carpet": ((112, 70, 66), (126, 84, 78)),
    "lawn": ((70, 92, 60), (82, 104, 68)),
}


def elsewhere() -> Surroundings:
    """Patterned table tops, coloured floors, and clutter."""
    rng = np.random.default_rng(31)
    textures = {
        f"{name}.png": _pattern(rng, name, *colours) for name, colours in (_TOPS | _GROUNDS).items()
    }
    return Surroundings(tuple(_TOPS), tuple(_GROUNDS), textures, _CLUTTER)


def sample_view_elsewhere(rng: np.random.Generator, scene: Scene) -> View:
    """Draw a camera, a lamp, surfaces and clutter beside the objects of a scene."""
    side = float(rng.choice([-1.0, 1.0]))
    steep = bool(rng.integers(2))
    lamp_side = float(rng.choice([-1.0, 1.0]))
    dim = bool(rng.integers(2))
    return View(
        azimuth=90.0 + side * float(rng.uniform(10.0, 18.0)),
        elevation=-float(rng.uniform(63.0, 69.0) if steep else rng.uniform(41.0, 47.0)),
        distance=float(rng.uniform(1.23, 1.30)),
        lookat=_triple(rng.uniform(-0.03, 0.03, 3) + np.array([0.0, -0.03, 0.02])),
        lamp=_triple(
            np.array([lamp_side * rng.uniform(0.62, 0.95), rng.uniform(-0.75, 0.55), -1.0])
        ),
        brightness=float(rng.uniform(0.36, 0.48) if dim else rng.uniform(0.82, 0.92)),
        ambient=float(rng.uniform(0.22, 0.29)),
        tint=_triple(1.0 + rng.uniform(-0.12, 0.12, 3)),
        table=int(rng.integers(len(_TOPS))),
        floor=int(rng.integers(len(_GROUNDS))),
        colour_noise=tuple(_triple(row) for row in rng.uniform(-0.045, 0.045, (MAX_OBJECTS, 3))),
        clutter=_scattered(rng, scene),
    )


def moved(rng: np.random.Generator, view: View) -> View:
    """The same place a moment later: the camera has moved a little, nothing else has."""
    return replace(
        view,
        azimuth=view.azimuth + float(rng.uniform(-3.0, 3.0)),
        elevation=view.elevation + float(rng.uniform(-2.5, 2.5)),
        distance=view.distance + float(rng.uniform(-0.04, 0.04)),
        lookat=_triple(np.array(view.lookat) + rng.uniform(-0.015, 0.015, 3)),
    )


def _scattered(rng: np.random.Generator, scene: Scene) -> tuple[Clutter, ...]:
    """Two to four things in cells of the table that no object stands in."""
    taken = {round(item.y / CELL + 1) * 3 + round(item.x / CELL + 1) for item in scene.objects}
    free = rng.permutation([cell for cell in range(9) if cell not in taken])
    numbers = rng.permutation(len(_CLUTTER))[: int(rng.integers(2, 5))]
    found = []
    for number, cell in zip(numbers.tolist(), free.tolist(), strict=False):
        row, column = divmod(cell, 3)
        x, y = (np.array([column, row]) - 1) * CELL + rng.uniform(-0.04, 0.04, 2)
        colour = _COLOURS[int(rng.integers(len(_COLOURS)))]
        found.append(Clutter(number, float(x), float(y), float(rng.uniform(0, np.pi)), colour))
    return tuple(found)


def _pattern(
    rng: np.random.Generator,
    name: str,
    first: tuple[int, int, int],
    second: tuple[int, int, int],
    size: int = 256,
) -> bytes:
    """A picture of two colours in a pattern, with grain, as PNG."""
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    if name == "checked":
        mask = ((x // 32) + (y // 32)) % 2 == 0
    elif name == "striped":
        mask = (x // 24) % 2 == 0
    elif name == "tiled":
        mask = (x % 64 > 3) & (y % 64 > 3)
    else:
        coarse = rng.normal(0, 1, (size // 16, size // 16)).astype(np.float32)
        cloud = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        mask = np.asarray(cloud) > 0
    picture = np.where(mask[..., None], np.array(first), np.array(second)).astype(np.float64)
    picture *= 1.0 + rng.normal(0, 0.03, (size, size, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
