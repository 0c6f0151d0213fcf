"""Triangle meshes of the toy objects, standing on z = 0 and centred on the z axis, in metres.

Most are surfaces of revolution whose profile runs up the outside and down the inside, so that the
surface is closed and a cup looks hollow. MuJoCo refuses meshes without a volume, hence no open
shells.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_SEGMENTS: Final = 28


@dataclass(frozen=True)
class Mesh:
    """Vertices ``(n, 3)`` in metres and triangles ``(m, 3)``, counter-clockwise from outside."""

    vertices: FloatArray
    faces: IntArray

    def stretched(self, wide: float, tall: float) -> "Mesh":
        """The same shape, ``wide`` times as wide (x and y) and ``tall`` times as tall (z)."""
        return Mesh(self.vertices * np.array([wide, wide, tall]), self.faces)


def merged(*meshes: Mesh) -> Mesh:
    """One mesh holding all the given ones."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
    )


def revolved(profile: list[tuple[float, float]], segments: int = _SEGMENTS) -> Mesh:
    """Turn ``(radius, height)`` points, given bottom outside first, around the z axis."""
    points = np.array(profile, dtype=np.float64)
    angles = np.linspace(0.0, 2.0 * np.pi, segments, endpoint=False)
    # Poles get a tiny radius instead of one shared vertex: it keeps the grid of faces regular.
    radii = np.maximum(points[:, 0], 1e-4)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    flat = radii[:, None, None] * ring[None]
    heights = np.broadcast_to(points[:, 1, None, None], (len(points), segments, 1))
    vertices = np.concatenate([flat, heights], axis=2).reshape(-1, 3)
    return Mesh(vertices, _tube_faces(len(points), segments))


def tube(path: FloatArray, radii: FloatArray, segments: int = 14) -> Mesh:
    """A round tube along ``path``, ``(n, 3)``, which lies in a plane of constant z or y."""
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    up = np.array([0.0, 0.0, 1.0]) if np.ptp(path[:, 2]) < 1e-9 else np.array([0.0, 1.0, 0.0])
    sides = np.cross(tangents, up)
    angles = np.linspace(0.0, 2.0 * np.pi, segments, endpoint=False)
    rings = np.cos(angles)[None, :, None] * sides[:, None] + np.sin(angles)[None, :, None] * up
    vertices = (path[:, None] + radii[:, None, None] * rings).reshape(-1, 3)
    return Mesh(vertices, _tube_faces(len(path), segments))


def _tube_faces(rows: int, segments: int) -> IntArray:
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(segments), indexing="ij")
    following = (column + 1) % segments
    a, b = row * segments + column, row * segments + following
    c, d = a + segments, b + segments
    lower = np.stack([a, b, d], axis=-1).reshape(-1, 3)
    upper = np.stack([a, d, c], axis=-1).reshape(-1, 3)
    return np.concatenate([lower, upper])


def _cup() -> Mesh:
    wall = revolved(
        [
            (0, 0),
            (0.040, 0),
            (0.044, 0.006),
            (0.048, 0.10),
            (0.047, 0.103),
            (0.043, 0.10),
            (0.038, 0.012),
            (0, 0.010),
        ]
    )
    angles = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 12)
    path = np.stack(
        [0.043 + 0.034 * np.cos(angles), np.zeros(12), 0.052 + 0.030 * np.sin(angles)], axis=1
    )
    return merged(wall, tube(path, np.full(12, 0.0085), 10))


def _bowl() -> Mesh:
    angles = np.linspace(0.15, 0.5 * np.pi, 9)
    outer = [(0.078 * np.sin(a), 0.062 * (1 - np.cos(a)) + 0.004) for a in angles]
    inner = [(0.071 * np.sin(a), 0.057 * (1 - np.cos(a)) + 0.010) for a in angles[::-1]]
    return revolved([(0, 0), (0.030, 0), *outer, *inner, (0, 0.010)])


def _plate() -> Mesh:
    return revolved(
        [
            (0, 0),
            (0.058, 0),
            (0.092, 0.014),
            (0.093, 0.018),
            (0.090, 0.0185),
            (0.060, 0.006),
            (0.055, 0.005),
            (0, 0.005),
        ]
    )


def _bottle() -> Mesh:
    return revolved(
        [
            (0, 0), (0.036, 0), (0.040, 0.005), (0.040, 0.10), (0.038, 0.115), (0.028, 0.135),
            (0.017, 0.150), (0.0145, 0.160), (0.0145, 0.180), (0, 0.180),
        ]
    )  # fmt: skip


def _bottle_cap() -> Mesh:
    return revolved([(0, 0.178), (0.0175, 0.178), (0.0175, 0.198), (0.0155, 0.201), (0, 0.201)])


def _can() -> Mesh:
    return revolved([(0, 0.004), (0.040, 0.004), (0.0415, 0.008), (0.0415, 0.112), (0, 0.112)])


def _can_rims() -> Mesh:
    foot = revolved([(0, 0), (0.036, 0), (0.0405, 0.005), (0, 0.005)])
    lid = revolved(
        [(0, 0.111), (0.0415, 0.111), (0.037, 0.120), (0.035, 0.120), (0.034, 0.115), (0, 0.115)]
    )
    return merged(foot, lid)


def _block() -> Mesh:
    half, height, edge = 0.043, 0.086, 0.004
    low, high = half - edge, half
    profile = [(low, 0.0), (high, edge), (high, height - edge), (low, height)]
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
    rows = [(1e-4, 0.0), *profile, (1e-4, height)]
    vertices = np.concatenate([np.column_stack([corners * r, np.full(4, z)]) for r, z in rows])
    return Mesh(vertices, _tube_faces(len(rows), 4))


def _ball() -> Mesh:
    angles = np.linspace(0.0, np.pi, 17)
    return revolved([(0.048 * np.sin(a), 0.048 * (1 - np.cos(a))) for a in angles])


def _banana() -> Mesh:
    angles = np.linspace(-1.05, 1.05, 19)
    path = np.stack(
        [0.095 * np.sin(angles), 0.095 * np.cos(angles) - 0.072, np.full(19, 0.024)], axis=1
    )
    along = np.linspace(-1.0, 1.0, 19)
    radii = 0.024 * np.sqrt(np.clip(1.0 - np.abs(along) ** 3.0, 0.0, 1.0))
    radii[0], radii[1], radii[-1] = 0.006, max(radii[1], 0.009), 0.001
    return tube(path, radii, 10)


def _spoon() -> Mesh:
    angles = np.linspace(0.05, 0.5 * np.pi, 7)
    outer = [(0.034 * np.sin(a), 0.022 * (1 - np.cos(a))) for a in angles]
    inner = [(0.030 * np.sin(a), 0.020 * (1 - np.cos(a)) + 0.005) for a in angles[::-1]]
    head = revolved([(0, 0), *outer, *inner, (0, 0.005)])
    head = Mesh(
        head.vertices * np.array([1.35, 1.0, 1.0]) + np.array([0.062, 0.0, 0.0]), head.faces
    )
    path = np.stack([np.linspace(-0.105, 0.022, 8), np.zeros(8), np.full(8, 0.016)], axis=1)
    return merged(
        head, tube(path, np.array([0.004, 0.009, 0.0085, 0.0075, 0.007, 0.0065, 0.006, 0.005]), 10)
    )


BODIES: Final[dict[str, Callable[[], Mesh]]] = {
    "cup": _cup,
    "bowl": _bowl,
    "plate": _plate,
    "bottle": _bottle,
    "can": _can,
    "block": _block,
    "ball": _ball,
    "banana": _banana,
    "spoon": _spoon,
}
"""The part of each kind that takes the object's colour."""

TRIMS: Final[dict[str, tuple[Callable[[], Mesh], tuple[float, float, float]]]] = {
    "bottle": (_bottle_cap, (0.80, 0.80, 0.80)),
    "can": (_can_rims, (0.68, 0.69, 0.71)),
}
"""The part of a kind that keeps a colour of its own: a bottle's cap, a can's metal rims."""

VARIANTS: Final = ((1.08, 1.10), (1.20, 0.96))
"""(wide, tall) of the shapes that each kind is rendered in."""
