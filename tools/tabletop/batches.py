"""Training batches: changed pictures, instructions, and the exact truth between them."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tools.tabletop.augment import augmented
from tools.tabletop.dataset import SceneTable
from tools.tabletop.language import Instruction, altered, sample_instruction
from tools.tabletop.model import CompactTokenizer
from tools.tabletop.phrases import LANGUAGES, say
from tools.tabletop.scene import CELL
from tools.tabletop.truth import truth_matrix

IndexArray = npt.NDArray[np.int64]
Item = TypeVar("Item")

_WORDS_INSERTED: Final = 0.15
"""Share of the instructions into which an unknown token is put."""


@dataclass(frozen=True)
class TextBatch:
    """Instructions and the scenes that they were drawn from.

    Attributes:
        texts: Token numbers of each language's instructions, int64 ``(t, longest)`` each.
        instructions: What they mean, in the order of the texts.
        table: The scenes.
        truth: Whether each instruction fits each scene, bool ``(sum of t, n)``.
    """

    texts: list[torch.Tensor]
    instructions: list[Instruction]
    table: SceneTable
    truth: torch.Tensor


@dataclass(frozen=True)
class ImageBatch:
    """Pictures and what they show.

    Attributes:
        images: Normalised float32, ``(b, 3, size, size)``.
        table: Their scenes.
        cell_kinds: What stands in each of the nine cells, int64 ``(b, 9)``; 0 for nothing.
        cell_colours: Its colour, likewise.
    """

    images: torch.Tensor
    table: SceneTable
    cell_kinds: torch.Tensor
    cell_colours: torch.Tensor


class TextBatches:
    """Draws instructions of training scenes without end.

    Args:
        table: The training scenes; rows ``2 i`` and ``2 i + 1`` are near misses of each other.
        tokenizer: Gives the token numbers.
        rng: The source of chance.
    """

    def __init__(
        self, table: SceneTable, tokenizer: CompactTokenizer, rng: np.random.Generator
    ) -> None:
        self._table, self._tokenizer, self._rng = table, tokenizer, rng

    def batches(self, families: int, per_language: int) -> Iterator[TextBatch]:
        """Batches of ``2 * families`` scenes and 1.5 ``per_language`` instructions a language."""
        while True:
            yield self.about(self._scenes(families), per_language)

    def meanings(self, families: int) -> Iterator[TextBatch]:
        """Batches of ``2 * families`` scenes and 2.5 ``families`` instructions without words."""
        while True:
            table = self._scenes(families)
            drawn = [sample_instruction(self._rng, table.scene(row)) for row in range(len(table))]
            drawn += [altered(self._rng, instruction) for instruction in drawn[::4]]
            yield TextBatch([], drawn, table, torch.from_numpy(truth_matrix(drawn, table)))

    def _scenes(self, families: int) -> SceneTable:
        first = 2 * self._rng.integers(len(self._table) // 2, size=families)
        rows = np.stack([first, first + 1], axis=1).ravel()
        flip = self._rng.random(len(rows)) < 0.5
        return self._table.rows(rows).mirrored(flip)

    def about(self, table: SceneTable, per_language: int) -> TextBatch:
        """Instructions about the given scenes."""
        texts: list[torch.Tensor] = []
        instructions: list[Instruction] = []
        for language in LANGUAGES:
            rows = self._rng.choice(len(table), per_language, replace=False)
            drawn = [sample_instruction(self._rng, table.scene(int(row))) for row in rows]
            # Near misses: the same with one respect changed, mostly false for the scene.
            drawn += [altered(self._rng, instruction) for instruction in drawn[::2]]
            numbers = self._tokenizer(
                [say(instruction, language, self._rng) for instruction in drawn]
            )
            texts.append(with_unknown_words(self._rng, numbers))
            instructions.extend(drawn)
        return TextBatch(
            texts, instructions, table, torch.from_numpy(truth_matrix(instructions, table))
        )


def with_unknown_words(rng: np.random.Generator, numbers: torch.Tensor) -> torch.Tensor:
    """Put the unknown token in at a chance place of some rows: strange words shall do no harm."""
    values = numbers.numpy().copy()
    end = values.argmax(axis=1)
    for row in np.flatnonzero(rng.random(len(values)) < _WORDS_INSERTED):
        if end[row] + 1 < values.shape[1]:
            place = int(rng.integers(1, end[row] + 1))
            values[row, place + 1 :] = values[row, place:-1].copy()
            values[row, place] = 0
    return torch.from_numpy(values)


class ImageBatches:
    """Changed views of the training pictures, every family of two once per round.

    Args:
        pictures: uint8 ``(n, side, side, 3)``.
        table: Their scenes.
        size: Side of the images in pixels.
        rng: The source of chance.
    """

    def __init__(
        self,
        pictures: npt.NDArray[np.uint8],
        table: SceneTable,
        size: int,
        rng: np.random.Generator,
    ) -> None:
        self._pictures, self._table, self._size, self._rng = pictures, table, size, rng

    def batches(self, families: int) -> Iterator[ImageBatch]:
        """Batches of ``2 * families`` pictures without end."""
        while True:
            order = self._rng.permutation(len(self._table) // 2)
            for start in range(0, len(order) - families + 1, families):
                first = 2 * order[start : start + families]
                yield self._batch(np.stack([first, first + 1], axis=1).ravel())

    def _batch(self, index: IndexArray) -> ImageBatch:
        flip = self._rng.random(len(index)) < 0.5
        table = self._table.rows(index).mirrored(flip)
        images = np.stack(
            [
                augmented(self._rng, self._pictures[i], self._size, bool(mirror))
                for i, mirror in zip(index, flip, strict=True)
            ]
        )
        kinds, colours = cells(table)
        return ImageBatch(
            torch.from_numpy(images.transpose(0, 3, 1, 2)),
            table,
            torch.from_numpy(kinds),
            torch.from_numpy(colours),
        )


def cells(table: SceneTable) -> tuple[IndexArray, IndexArray]:
    """Kind and colour in each of the nine cells, ``(n, 9)`` each: 0 for nothing, else 1 + index."""
    kinds = np.zeros((len(table), 9), dtype=np.int64)
    colours = np.zeros((len(table), 9), dtype=np.int64)
    row, slot = np.nonzero(table.kinds >= 0)
    place = np.rint(table.positions[row, slot] / CELL).astype(np.int64) + 1
    cell = place[:, 1] * 3 + place[:, 0]
    kinds[row, cell] = table.kinds[row, slot] + 1
    colours[row, cell] = table.colours[row, slot] + 1
    return kinds, colours


@dataclass(frozen=True)
class _End:
    """Comes after the last item: why there is no other one."""

    error: Exception | None


def prefetched(items: Iterator[Item], depth: int = 3) -> Iterator[Item]:
    """The same items in the same order, made ahead in a thread while torch computes.

    What goes wrong while one is made is raised here, after those before it.
    """
    waiting: queue.Queue[Item | _End] = queue.Queue(depth)

    def fill() -> None:
        error = None
        try:
            for item in items:
                waiting.put(item)
        except Exception as failure:
            error = failure
        waiting.put(_End(error))

    threading.Thread(target=fill, daemon=True).start()
    while not isinstance(item := waiting.get(), _End):
        yield item
    if item.error is not None:
        raise item.error
