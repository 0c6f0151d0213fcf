"""Pictures of scenes: one compiled MuJoCo model whose objects are moved, coloured and hidden.

Set ``MUJOCO_GL=osmesa`` (software, what the shipped pictures are made with) or ``egl`` before
importing this module: MuJoCo picks its OpenGL context at import.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import mujoco  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.tabletop.meshes import BODIES, TRIMS, VARIANTS, Mesh
from tools.tabletop.scene import MAX_OBJECTS, Scene, TableObject
from tools.tabletop.vocabulary import KINDS, RGB

ImageArray = npt.NDArray[np.uint8]

_HIDDEN_GROUP: Final = 5
_SHOWN_GROUP: Final = 1
_TABLES: Final = ("oak", "walnut", "birch", "grey", "stone", "cloth", "slate", "cream")
_FLOORS: Final = ("floor_a", "floor_b", "floor_c")


@dataclass(frozen=True)
class Surroundings:
    """What objects stand on and among.

    Attributes:
        tables: Names of table tops, which ``View.table`` counts.
        floors: Names of floors, which ``View.floor`` counts.
        textures: PNG bytes by ``<name>.png``, of each table top and floor.
        clutter: MuJoCo's attributes of things that no instruction names, one geom each.
    """

    tables: tuple[str, ...]
    floors: tuple[str, ...]
    textures: Mapping[str, bytes]
    clutter: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clutter:
    """One thing that no instruction names: its place in ``Surroundings.clutter``, where it lies.

    Metres and radians; ``colour`` is linear red, green and blue.
    """

    number: int
    x: float
    y: float
    turn: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """How a scene is seen: camera, lamps, table and floor.

    Angles are in degrees and lengths in metres; ``tint`` multiplies the lamps' red, green and blue,
    and ``colour_noise`` (shape ``(4, 3)``) is added to the base colours of the objects. No number
    of ``clutter`` comes twice.
    """

    azimuth: float
    elevation: float
    distance: float
    lookat: tuple[float, float, float]
    lamp: tuple[float, float, float]
    brightness: float
    ambient: float
    tint: tuple[float, float, float]
    table: int
    floor: int
    colour_noise: tuple[tuple[float, float, float], ...]
    clutter: tuple[Clutter, ...] = ()


def sample_view(rng: np.random.Generator) -> View:
    """Draw a camera behind the robot's edge of the table, a lamp above it, and a table."""
    lookat = rng.uniform(-0.02, 0.02, 3) + np.array([0.0, -0.03, 0.02])
    lamp = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.4), -1.0])
    tint = 1.0 + rng.uniform(-0.07, 0.07, 3)
    noise = rng.uniform(-0.035, 0.035, (MAX_OBJECTS, 3))
    return View(
        azimuth=90.0 + float(rng.uniform(-9.0, 9.0)),
        elevation=-float(rng.uniform(48.0, 62.0)),
        distance=float(rng.uniform(1.08, 1.22)),
        lookat=_triple(lookat),
        lamp=_triple(lamp),
        brightness=float(rng.uniform(0.50, 0.80)),
        ambient=float(rng.uniform(0.30, 0.44)),
        tint=_triple(tint),
        table=int(rng.integers(len(_TABLES))),
        floor=int(rng.integers(len(_FLOORS))),
        colour_noise=tuple(_triple(row) for row in noise),
    )


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


class Renderer:
    """Renders scenes at one size. Not safe for use from several threads.

    Args:
        width: Picture width in pixels.
        height: Picture height in pixels. The whole table lies within the central square.
        around: What objects stand on and among; without it, what the demonstration model saw.
    """

    def __init__(
        self, width: int = 640, height: int = 480, around: Surroundings | None = None
    ) -> None:
        self._around = around or home()
        xml, assets = _world(width, height, self._around)
        self._model = mujoco.MjModel.from_xml_string(xml, assets)
        self._data = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, height, width)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 0
        self._options.geomgroup[: _SHOWN_GROUP + 1] = 1
        self._camera = mujoco.MjvCamera()
        self._bodies = {
            (slot, kind, variant): self._model.body(_body_name(slot, kind, variant)).id
            for slot in range(MAX_OBJECTS)
            for kind in KINDS
            for variant in range(len(VARIANTS))
        }
        self._table = self._model.geom("table").id
        self._floor = self._model.geom("floor").id

    def render(self, scene: Scene, view: View) -> ImageArray:
        """The picture, RGB uint8 ``(height, width, 3)``; the same for the same arguments."""
        model = self._model
        model.geom_group[2:] = _HIDDEN_GROUP
        for slot, item in enumerate(scene.objects):
            self._show(slot, item, view.colour_noise[slot])
        for thing in view.clutter:
            self._show_clutter(thing)
        model.geom_matid[self._table] = model.material(self._around.tables[view.table]).id
        model.geom_matid[self._floor] = model.material(self._around.floors[view.floor]).id
        self._light(view)
        mujoco.mj_kinematics(model, self._data)
        mujoco.mj_camlight(model, self._data)
        self._aim(view)
        self._renderer.update_scene(self._data, self._camera, self._options)
        picture: ImageArray = self._renderer.render().copy()
        return picture

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    def _show(self, slot: int, item: TableObject, noise: tuple[float, float, float]) -> None:
        model = self._model
        body = self._bodies[(slot, item.kind, item.variant)]
        model.body_pos[body] = (item.x, item.y, 0.0)
        model.body_quat[body] = (np.cos(item.turn / 2), 0.0, 0.0, np.sin(item.turn / 2))
        first = int(model.body_geomadr[body])
        count = int(model.body_geomnum[body])
        model.geom_group[first : first + count] = _SHOWN_GROUP
        model.geom_rgba[first, :3] = np.clip(np.array(RGB[item.colour]) + noise, 0.0, 1.0)

    def _show_clutter(self, thing: Clutter) -> None:
        model = self._model
        body = model.body(f"clutter_{thing.number}").id
        model.body_pos[body, :2] = (thing.x, thing.y)
        model.body_quat[body] = (np.cos(thing.turn / 2), 0.0, 0.0, np.sin(thing.turn / 2))
        geom = int(model.body_geomadr[body])
        model.geom_group[geom] = _SHOWN_GROUP
        model.geom_rgba[geom, :3] = thing.colour

    def _light(self, view: View) -> None:
        model = self._model
        direction = np.array(view.lamp) / np.linalg.norm(view.lamp)
        tint = np.array(view.tint)
        model.light_dir[0] = direction
        model.light_pos[0] = -1.6 * direction
        model.light_diffuse[0] = view.brightness * tint
        model.vis.headlight.ambient[:] = view.ambient * tint

    def _aim(self, view: View) -> None:
        camera = self._camera
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.azimuth, camera.elevation, camera.distance = (
            view.azimuth,
            view.elevation,
            view.distance,
        )
        camera.lookat[:] = view.lookat


def _body_name(slot: int, kind: str, variant: int) -> str:
    return f"{kind}_{variant}_{slot}"


def _world(width: int, height: int, around: Surroundings) -> tuple[str, dict[str, bytes]]:
    meshes: list[str] = []
    bodies: list[str] = []
    for kind in KINDS:
        for variant, (wide, tall) in enumerate(VARIANTS):
            meshes.append(_mesh_xml(f"{kind}_{variant}", BODIES[kind]().stretched(wide, tall)))
            if kind in TRIMS:
                meshes.append(
                    _mesh_xml(f"{kind}_{variant}_trim", TRIMS[kind][0]().stretched(wide, tall))
                )
            bodies.extend(_body_xml(slot, kind, variant) for slot in range(MAX_OBJECTS))
    clutter = "".join(
        f'<body name="clutter_{number}"><geom contype="0" conaffinity="0" material="toy"'
        f' rgba="1 1 1 1" {attributes}/></body>'
        for number, attributes in enumerate(around.clutter)
    )
    materials = "".join(
        f'<texture name="{name}" type="2d" file="{name}.png"/>'
        f'<material name="{name}" texture="{name}" texrepeat="{repeat} {repeat}"'
        f' texuniform="{uniform}" specular="0.15" shininess="0.2"/>'
        for name, repeat, uniform in [
            *((t, 1, "false") for t in around.tables),
            *((f, 1, "true") for f in around.floors),
        ]
    )
    # Software rendering spends most of its time on the shadow map; small pictures do not show a
    # finer one.
    shadow = 1024 if height < 240 else 4096
    xml = f"""<mujoco>
      <visual><global offwidth="{width}" offheight="{height}" fovy="42"/>
        <quality shadowsize="{shadow}" offsamples="4"/>
        <headlight ambient="0.3 0.3 0.3" diffuse="0.14 0.14 0.14" specular="0 0 0"/>
        <map znear="0.05" zfar="40" shadowclip="1.8"/></visual>
      <asset>
        <texture name="sky" type="skybox" builtin="gradient" rgb1="0.55 0.6 0.66"
                 rgb2="0.3 0.3 0.32" width="64" height="64"/>
        <material name="toy" specular="0.45" shininess="0.55"/>
        {materials}{"".join(meshes)}
      </asset>
      <worldbody>
        <light type="directional" castshadow="true" pos="0 0 2" dir="0 0 -1"
               specular="0.35 0.35 0.35"/>
        <geom name="table" type="box" size="0.37 0.35 0.015" pos="0 0 -0.015" contype="0"
              conaffinity="0"/>
        <geom name="floor" type="plane" size="6 6 1" pos="0 0 -0.72" contype="0" conaffinity="0"/>
        {"".join(bodies)}{clutter}
      </worldbody></mujoco>"""
    return xml, dict(around.textures)


def _mesh_xml(name: str, mesh: Mesh) -> str:
    vertices = " ".join(f"{value:.5f}" for value in mesh.vertices.ravel())
    faces = " ".join(str(value) for value in mesh.faces.ravel())
    return f'<mesh name="{name}" inertia="shell" vertex="{vertices}" face="{faces}"/>'


def _body_xml(slot: int, kind: str, variant: int) -> str:
    common = 'type="mesh" contype="0" conaffinity="0" material="toy"'
    trim = ""
    if kind in TRIMS:
        red, green, blue = TRIMS[kind][1]
        trim = f'<geom {common} mesh="{kind}_{variant}_trim" rgba="{red} {green} {blue} 1"/>'
    name = _body_name(slot, kind, variant)
    return (
        f'<body name="{name}"><geom {common} mesh="{kind}_{variant}" rgba="1 1 1 1"/>{trim}</body>'
    )


def home() -> Surroundings:
    """What the demonstration model saw: table tops and floors, and no clutter."""
    return Surroundings(_TABLES, _FLOORS, _textures())


def _textures() -> dict[str, bytes]:
    rng = np.random.default_rng(20)
    wood = {"oak": (176, 132, 84), "walnut": (104, 70, 46), "birch": (205, 178, 140)}
    plain = {"grey": (138, 140, 142), "stone": (168, 162, 152), "cloth": (92, 118, 122),
             "slate": (78, 84, 92), "cream": (206, 198, 180)}  # fmt: skip
    floors = {"floor_a": (120, 116, 110), "floor_b": (86, 90, 98), "floor_c": (150, 142, 130)}
    pictures = {name: _wood(rng, base) for name, base in wood.items()}
    pictures |= {name: _speckled(rng, base) for name, base in (plain | floors).items()}
    return {f"{name}.png": _png(picture) for name, picture in pictures.items()}


def _wood(
    rng: np.random.Generator, base: tuple[int, int, int], size: int = 256
) -> npt.NDArray[np.float64]:
    across, along = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    bend = sum(
        rng.uniform(0.004, 0.02) * np.sin(2 * np.pi * (k * along + rng.uniform()))
        for k in (1, 2, 3)
    )
    grain = sum(
        rng.uniform(0.3, 1.0)
        * np.sin(2 * np.pi * (k * (across + bend) + rng.uniform()))
        / np.sqrt(k)
        for k in (5, 9, 14, 23, 41)
    )
    planks = rng.uniform(-0.09, 0.09, 5)[np.minimum((across * 5).astype(int), 4)]
    seams = np.where(np.abs((across * 5) % 1.0) < 0.02, -0.25, 0.0)
    shade = 1.0 + 0.045 * grain + planks + seams + rng.normal(0, 0.012, (size, size))
    return np.asarray(np.array(base) * shade[..., None])


def _speckled(
    rng: np.random.Generator, base: tuple[int, int, int], size: int = 256
) -> npt.NDArray[np.float64]:
    coarse = rng.normal(0, 1, (size // 16, size // 16))
    cloud = np.asarray(
        Image.fromarray(coarse.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    )
    shade = 1.0 + 0.025 * cloud + rng.normal(0, 0.02, (size, size))
    return np.asarray(np.array(base) * shade[..., None])


def _png(picture: npt.NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
