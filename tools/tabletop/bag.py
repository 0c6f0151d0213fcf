"""Write the demonstration bag: a camera over table-top scenes, and instructions given there.

``python -m tools.tabletop.bag`` writes a rosbag2 directory in mcap storage. Every episode shows
another scene while the camera drifts a little; its instruction comes in English just before its
first frame, and again in Chinese halfway. All scenes are new, from random streams of their own;
every fourth one shows a combination of colour, kind and place that training never showed.
"""

import argparse
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from tools.tabletop.dataset import SceneTable
from tools.tabletop.gallery import HEIGHT, WIDTH
from tools.tabletop.language import Instruction, ObjectPhrase, sample_instruction, satisfies
from tools.tabletop.phrases import LANGUAGES, say
from tools.tabletop.scene import Scene, TableObject, sample_scene
from tools.tabletop.truth import truth_matrix

IMAGE_TOPIC: Final = "/camera/image/compressed"
INSTRUCTION_TOPIC: Final = "/instruction"
FRAME_ID: Final = "camera"
BAG_FOLDER: Final = Path(__file__).resolve().parents[2] / "demo" / "bag"
TASKS_PATH: Final = BAG_FOLDER.with_name("tasks.yaml")
FRAMES_PER_SECOND: Final = 5
_START_NS: Final = 1_767_225_600_000_000_000
_SECOND_NS: Final = 1_000_000_000
_JPEG_QUALITY: Final = 85
_TYPES: Final = get_typestore(Stores.ROS2_HUMBLE)

Episode = tuple[Scene, list[tuple[Instruction, str]]]


def episodes(seed: int, count: int) -> list[Episode]:
    """Scenes and the (instruction, words) said about each; the first one is the cup on the table.

    Every instruction fits its own scene. All but the first scene's fit no other scene of the bag,
    where one of 200 drawn ones does not: of the shipped bag, the 15th scene's fits the 2nd, too.
    """
    rng = np.random.default_rng([seed, 20])
    cup = Scene(
        (
            TableObject("cup", "blue", 0.02, -0.01, -0.9, 0),
            TableObject("plate", "white", -0.21, 0.18, 0.0, 0),
            TableObject("banana", "yellow", 0.19, 0.02, 0.6, 1),
        )
    )
    scenes = [cup] + [sample_scene(rng, "train" if n % 4 else "test") for n in range(1, count)]
    table = SceneTable.of(scenes)
    plain = Instruction("pick", ObjectPhrase(kind="cup"))
    found: list[Episode] = [
        (cup, [(plain, "pick up the cup on the table"), (plain, "拿起桌子上的杯子")])
    ]
    for index in range(1, count):
        instruction = _only_here(rng, scenes[index], table)
        said = [(instruction, say(instruction, language, rng)) for language in LANGUAGES]
        found.append((scenes[index], said))
    return found


def _only_here(rng: np.random.Generator, scene: Scene, table: SceneTable) -> Instruction:
    drawn = [sample_instruction(rng, scene) for _ in range(200)]
    unique = truth_matrix(drawn, table).sum(axis=1) == 1
    instruction = drawn[int(np.argmax(unique))]
    if not satisfies(instruction, scene):
        raise ValueError(f"sampled instruction {instruction} does not fit its scene {scene}")
    return instruction


def write_bag(folder: Path, seed: int, count: int) -> None:
    """Write the bag, replacing what is there.

    Args:
        folder: The bag's directory.
        seed: Seeds scenes, words and the camera's drift.
        count: Number of episodes.
    """
    # Rendering needs OpenGL; who only reads the bag should not.
    from tools.tabletop.render import Renderer, sample_view

    rng = np.random.default_rng([seed, 21])
    renderer = Renderer(WIDTH, HEIGHT)
    if folder.exists():
        shutil.rmtree(folder)
    clock = _START_NS
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            INSTRUCTION_TOPIC: writer.add_connection(
                INSTRUCTION_TOPIC, "std_msgs/msg/String", typestore=_TYPES
            ),
            IMAGE_TOPIC: writer.add_connection(
                IMAGE_TOPIC, "sensor_msgs/msg/CompressedImage", typestore=_TYPES
            ),
        }
        for scene, said in episodes(seed, count):
            view = sample_view(rng)
            drift = rng.uniform(-1.0, 1.0, 3)
            frames = int(rng.integers(8, 14))
            for frame in range(frames):
                if frame in (0, frames // 2):
                    words = _string(said[min(frame, 1)][1])
                    _write(writer, topics[INSTRUCTION_TOPIC], clock + _SECOND_NS // 50, words)
                clock += _SECOND_NS // FRAMES_PER_SECOND
                moved = replace(
                    view,
                    azimuth=view.azimuth + 0.35 * frame * float(drift[0]),
                    elevation=view.elevation + 0.20 * frame * float(drift[1]),
                    distance=view.distance + 0.004 * frame * float(drift[2]),
                )
                picture = Image.fromarray(renderer.render(scene, moved))
                _write(writer, topics[IMAGE_TOPIC], clock, _compressed_image(picture, clock))
            clock += _SECOND_NS
    renderer.close()


def write_tasks(path: Path, seed: int, count: int) -> None:
    """Write which instructions of the bag are one task: those that were said about one scene.

    ``evaluate --relevance labels:FILE`` reads it.
    """
    tasks = {
        f"scene {number:02d}": [words for _, words in said]
        for number, (_, said) in enumerate(episodes(seed, count), start=1)
    }
    text = yaml.safe_dump(tasks, allow_unicode=True, sort_keys=False, width=200)
    path.write_text(text, encoding="utf-8")


def _write(writer: Writer, connection: Any, stamp_ns: int, message: Any) -> None:
    writer.write(connection, stamp_ns, _TYPES.serialize_cdr(message, connection.msgtype))


def _string(words: str) -> Any:
    return _TYPES.types["std_msgs/msg/String"](data=words)


def _compressed_image(picture: Image.Image, stamp_ns: int) -> Any:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    stamp = _TYPES.types["builtin_interfaces/msg/Time"](
        sec=stamp_ns // _SECOND_NS, nanosec=stamp_ns % _SECOND_NS
    )
    header = _TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME_ID)
    data = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    return _TYPES.types["sensor_msgs/msg/CompressedImage"](header=header, format="jpeg", data=data)


def main() -> None:
    """Write the bag."""
    parser = argparse.ArgumentParser(description="Write the demonstration bag.")
    parser.add_argument(
        "--out", type=Path, default=BAG_FOLDER, help="directory of the bag; replaced"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=16)
    options = parser.parse_args()
    write_bag(options.out, options.seed, options.episodes)
    write_tasks(options.out.with_name(TASKS_PATH.name), options.seed, options.episodes)


if __name__ == "__main__":
    main()
