"""Episodes of one robot: tasks that come again, frames of each, and their embeddings.

A task is a (colour, kind) pair, and its instructions are phrasings in both languages. Half of all
pairs are tasks; the other half only stands around, so that a scene shows what one task asks for and
no other one does. An episode is one scene of one task with one instruction, seen in a few frames
while the camera moves a little.
"""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from tools.tabletop.language import Action, Instruction, ObjectPhrase
from tools.tabletop.phrases import LANGUAGES, say
from tools.tabletop.scene import MAX_OBJECTS, Scene, scene_of
from tools.tabletop.vocabulary import ALL_PAIRS, COLOURS, KINDS, Pair

Place = Literal["home", "elsewhere"]
ImageArray = npt.NDArray[np.uint8]

PICTURE_SIZE: Final = 144


def _number(colour: str, kind: str) -> int:
    return KINDS.index(kind) + COLOURS.index(colour)


TASKS: Final[tuple[Pair, ...]] = tuple(
    (colour, kind) for colour, kind in ALL_PAIRS if _number(colour, kind) % 2 == 0
)
OTHERS: Final[tuple[Pair, ...]] = tuple(pair for pair in ALL_PAIRS if pair not in TASKS)


@dataclass(frozen=True)
class Episodes:
    """Embedded frames, in the order of their episodes.

    Attributes:
        scenes: Float32, shape ``(n, dim)``, unit rows.
        instructions: Of each frame's instruction, likewise.
        texts: Each frame's instruction.
        tasks: Each frame's task, ``"<colour> <kind>"``.
        episodes: Each frame's episode.
    """

    scenes: npt.NDArray[np.float32]
    instructions: npt.NDArray[np.float32]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    episodes: tuple[str, ...]


def make_episodes(
    work: Path, place: Place, per_task: int, frames: int, seed: int, processes: int
) -> Episodes:
    """Render and embed episodes, or read what an earlier call with the same arguments made.

    Args:
        work: Folder that keeps the embeddings.
        place: ``home`` is what the demonstration model saw, ``elsewhere`` is not.
        per_task: Episodes of each task.
        frames: Of each episode.
        seed: Of scenes, views and phrasings.
        processes: That render.
    """
    from vla_retrieval.encoders import load_encoder

    encoder = load_encoder()
    settings = f"{place} {per_task} {frames} {seed} {PICTURE_SIZE} {encoder.fingerprint}"
    path = work / f"{place}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        jobs = [(place, task, per_task, frames, seed) for task in range(len(TASKS))]
        pictures, texts = [], []
        # A fresh process: OpenGL in software and torch do not load into one another's company.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for some, said in pool.map(_render_task, jobs):
                pictures += [encoder.encode_images(list(some[i : i + 32]))
                             for i in range(0, len(some), 32)]  # fmt: skip
                texts += said
        spoken = {text: encoder.encode_instructions([text])[0] for text in dict.fromkeys(texts)}
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, scenes=np.concatenate(pictures), texts=np.array(texts),
                 instructions=np.stack([spoken[text] for text in texts]))  # fmt: skip
        partial.rename(path)
    return _read(path, per_task, frames)


def sample_task_scene(rng: np.random.Generator, task: Pair) -> Scene:
    """Draw a scene with what the task asks for, among things that no task asks for."""
    count = int(rng.integers(1, MAX_OBJECTS))
    others = rng.choice(len(OTHERS), size=count, replace=False)
    return scene_of(rng, [task, *(OTHERS[int(other)] for other in others)])


def sample_task_text(rng: np.random.Generator, task: Pair) -> str:
    """Draw an instruction for the task, in one of the languages."""
    action: Action = ("pick", "find", "push")[int(rng.integers(3))]
    phrase = ObjectPhrase(kind=task[1], colour=task[0])
    language = LANGUAGES[int(rng.integers(len(LANGUAGES)))]
    return say(Instruction(action, phrase), language, rng)


def _render_task(job: tuple[Place, int, int, int, int]) -> tuple[ImageArray, list[str]]:
    # The OpenGL context must be made in the process that renders.
    from tools.tabletop.elsewhere import elsewhere, moved, sample_view_elsewhere
    from tools.tabletop.render import Renderer, home, sample_view

    place, task, per_task, frames, seed = job
    rng = np.random.default_rng([seed, task, int(place == "elsewhere")])
    around = home() if place == "home" else elsewhere()
    renderer = Renderer(PICTURE_SIZE, PICTURE_SIZE, around)
    pictures, texts = [], []
    for _ in range(per_task):
        scene = sample_task_scene(rng, TASKS[task])
        view = sample_view(rng) if place == "home" else sample_view_elsewhere(rng, scene)
        views = [view, *(moved(rng, view) for _ in range(frames - 1))]
        pictures += [renderer.render(scene, view) for view in views]
        texts += [sample_task_text(rng, TASKS[task])] * frames
    renderer.close()
    return np.stack(pictures), texts


def _read(path: Path, per_task: int, frames: int) -> Episodes:
    with np.load(path) as kept:
        scenes, instructions, texts = kept["scenes"], kept["instructions"], kept["texts"].tolist()
    tasks = [f"{colour} {kind}" for colour, kind in TASKS for _ in range(per_task * frames)]
    episodes = [f"{row // frames:05d}" for row in range(len(texts))]
    return Episodes(scenes, instructions, tuple(texts), tuple(tasks), tuple(episodes))
