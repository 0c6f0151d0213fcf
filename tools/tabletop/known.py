"""Calibrate a memory of the demonstration bag's scenes and see whether what it promises comes true.

``python -m tools.tabletop.known`` (needs OpenGL as ``tools.tabletop.bag`` does) makes a memory from
the bag's frames and further visits to its scenes, each from a new view and with the scene's two
instructions, in English and in Chinese; calibrates it as ``memory calibrate`` does, first without
being told which instructions are translations of each other; and asks it, as a node would, with

- further visits to those scenes, never seen before, in the words of the memory: answerable, and
- scenes that were never visited, with instructions that fit none of the bag's scenes: absent.
"""

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from tools.tabletop.bag import BAG_FOLDER, IMAGE_TOPIC, INSTRUCTION_TOPIC, Episode, episodes
from tools.tabletop.dataset import SceneTable
from tools.tabletop.gallery import HEIGHT, WIDTH
from tools.tabletop.truth import truth_matrix
from vla_retrieval.calibration import DIRECTIONS
from vla_retrieval.encoders import EncoderSettings, load_encoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.results import Estimate
from vla_retrieval.memory import Memory
from vla_retrieval.retriever import Retriever
from vla_retrieval.self_calibration import SelfCalibration, calibrate
from vla_retrieval.types import Known, Modality, NewEntry, Query, RgbImage

_ABSENT_SEED: Final = 1000


class Visit(NamedTuple):
    """A picture of a scene, with what is said there."""

    picture: RgbImage
    instruction: str
    episode: str


def bag_frames() -> Iterator[Visit]:
    """Yield every frame of the demonstration bag with the instruction in force."""
    instruction, number = "", 0
    with AnyReader([BAG_FOLDER], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            if connection.topic == INSTRUCTION_TOPIC:
                instruction, number = message.data, number + 1
            elif connection.topic == IMAGE_TOPIC:
                picture = Image.open(io.BytesIO(message.data.tobytes())).convert("RGB")
                yield Visit(np.asarray(picture), instruction, f"bag {number}")


def visits(of: list[Episode], count: int, rng: np.random.Generator, name: str) -> Iterator[Visit]:
    """Yield visits to scenes, rendered from new views: one per instruction and time."""
    from tools.tabletop.render import Renderer, sample_view

    renderer = Renderer(WIDTH, HEIGHT)
    for n, (scene, said) in enumerate(of):
        for time in range(count):
            for _, words in said:
                picture = np.asarray(renderer.render(scene, sample_view(rng)))
                yield Visit(picture, words, f"{name} {n} {time} {words}")
    renderer.close()


def never_visited(of: list[Episode], count: int) -> list[Episode]:
    """Draw scenes with instructions that fit none of the given scenes."""
    table = SceneTable.of([scene for scene, _ in of])
    drawn = episodes(_ABSENT_SEED, 1 + 2 * count)[1:]  # the first one is the bag's first
    new = [e for e in drawn if not truth_matrix([e[1][0][0]], table).any()]
    return new[:count]


def remember(retriever: Retriever, seen: Iterator[Visit]) -> None:
    """Store visits."""
    for visit in seen:
        retriever.remember(
            visit.picture, NewEntry(visit.instruction, 0, episode_id=visit.episode)
        )  # fmt: skip


def share_known(retriever: Retriever, asked: list[Visit], direction: str) -> tuple[float, float]:
    """Return the share of visits that are known, and their mean confidence."""
    parts, target = DIRECTIONS[direction]
    answers = [
        retriever.retrieve(
            Query(
                visit.picture if Modality.SCENE in parts else None,
                visit.instruction if Modality.INSTRUCTION in parts else None,
                target,
            )
        )
        for visit in asked
    ]
    known = np.mean([answer.known is Known.YES for answer in answers])
    return float(known), float(np.mean([answer.known_confidence for answer in answers]))


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def main() -> None:
    """Calibrate, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--visits", type=int, default=3, help="to each scene beside the bag's")
    parser.add_argument("--asked", type=int, default=5, help="visits to each scene to ask with")
    parser.add_argument("--absent", type=int, default=80, help="scenes that were never visited")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng([options.seed, 30])
    scenes = episodes(7, 16)  # those of the bag
    encoder = load_encoder(EncoderSettings(model="vla-retrieval-demo"))
    with (
        tempfile.TemporaryDirectory() as folder,
        Memory.open(Path(folder) / "memory", encoder.fingerprint, durable=False) as memory,
    ):
        retriever = Retriever(encoder, memory, thumbnail_px=0)
        remember(retriever, bag_frames())
        try:
            calibrate(memory, alpha=options.alpha)
        except InvalidInputError as error:
            print(f"the bag alone: {error}\n")
        remember(retriever, visits(scenes, options.visits, rng, "again"))
        yes = list(visits(scenes, options.asked, rng, "asked"))
        no = list(visits(never_visited(scenes, options.absent), 1, rng, "absent"))
        translations = [[words for _, words in said] for _, said in scenes]
        for title, same in (("each text by itself", []), ("translations told", translations)):
            found = calibrate(memory, alpha=options.alpha, same=same)
            memory.set_calibration(found.calibration.to_json())
            print(
                f"{title}: {found.calibration.memory_size} entries, {found.episodes} episodes,"
                f" {found.instructions} instructions, alpha {options.alpha:g}; then asked:"
                f" {len(yes)} visits to those scenes, {len(no)} to others"
            )
            _print(found, retriever, yes, no)


def _print(
    found: SelfCalibration, retriever: Retriever, yes: list[Visit], no: list[Visit]
) -> None:  # fmt: skip
    head = ("unknown, held out", "known, held out", "AUROC, held out")
    print(f"{'direction':<26}" + "".join(f"{text:>22}" for text in head)
          + f"{'answerable unknown':>20}{'absent known':>14}  confidences")  # fmt: skip
    for name, result in found.known.items():
        known, sure = share_known(retriever, yes, name)
        wrong, unsure = share_known(retriever, no, name)
        print(
            f"{name:<26}{_text(result.false_rejects):>22}{_text(result.false_accepts):>22}"
            f"{_text(result.auroc):>22}{1 - known:>20.3f}{wrong:>14.3f}  {sure:.2f} {unsure:.2f}"
        )
    for name, why in found.left_out.items():
        print(f"{name:<26}  not calibrated: {why}")
    print()


if __name__ == "__main__":
    main()
