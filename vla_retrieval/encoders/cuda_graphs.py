"""Towers recorded as CUDA graphs: one launch in the place of hundreds.

A small batch keeps a GPU less busy than the CPU that launches its kernels one by one. A graph
is recorded once for a shape, and replayed with one call. It reads and writes the memory that it was
recorded with, so input and output are copied, and one call at a time replays it.

Source: PyTorch's "CUDA semantics", section "CUDA Graphs".
"""

from __future__ import annotations

import functools
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Tower = Callable[[torch.Tensor], torch.Tensor]
Record = Callable[[Tower, torch.Tensor], "Recording"]

_log = logging.getLogger(__name__)

NOBODY_RECORDS = threading.Lock()
"""Held while a graph is recorded, one at a time in a process, and by whoever would disturb that:
what waits for the whole device, and what the allocator would take for the graph's own."""

_WARM_UPS = 3
"""Passes before a recording, in which libraries choose kernels and allocate their workspaces."""


class Recording:
    """A pass of a tower over one shape.

    Args:
        source: The input that it reads.
        result: The output that it writes.
        replay: Does it again.
    """

    def __init__(
        self, source: torch.Tensor, result: torch.Tensor, replay: Callable[[], None]
    ) -> None:
        self._source = source
        self._result = result
        self._replay = replay
        self._lock = threading.Lock()  # protects the memory of source and result

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return what the tower makes of a batch of that shape, in memory of its own."""
        with self._lock:
            self._source.copy_(batch, non_blocking=True)
            self._replay()
            return self._result.clone()


class RecordedTower:
    """A tower that is replayed for some shapes, and run for others.

    Args:
        tower: Takes and returns tensors on the device.
        examples: One input for each shape that is common.
        record: Makes a recording; may fail for a tower that waits for the GPU in its midst, or
            for want of memory.
        batch_size: Inputs of a batch that is recorded when it comes for the second time: who
            never asks for one does not give a GPU's memory for its recording. Where that fails,
            the 4th, 8th and so on try again. 0 for none.
    """

    def __init__(
        self,
        tower: Tower,
        examples: Sequence[torch.Tensor],
        record: Record | None = None,
        batch_size: int = 0,
    ) -> None:
        self._tower = tower
        self._record = record or record_on_gpu
        self._batch_size = batch_size
        self._batches = 0
        self._lock = threading.Lock()  # protects what is learnt of batches
        self._recordings: dict[torch.Size, Recording] = {}
        for example in examples:
            self._add(example)

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """The shapes that are replayed."""
        return {tuple(shape) for shape in self._recordings}

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return what the tower makes of a batch."""
        recording = self._recordings.get(batch.shape)
        if recording is None and len(batch) == self._batch_size:
            self._learn(batch)
            recording = self._recordings.get(batch.shape)
        return self._tower(batch) if recording is None else recording(batch)

    def give_back(self) -> bool:
        """Drop the recording of a whole batch, for good; return whether there was one.

        It keeps the memory of its pass, which no other pass can use.
        """
        with self._lock:
            recorded = [s for s in self._recordings if s[0] == self._batch_size > 1]
            for shape in recorded:
                del self._recordings[shape]
            if recorded:
                self._batch_size = 0
        return bool(recorded)

    def _learn(self, batch: torch.Tensor) -> None:
        with self._lock:
            if batch.shape in self._recordings or len(batch) != self._batch_size:
                return  # another thread has recorded it meanwhile, or given it back
            self._batches += 1
            is_power_of_two = self._batches & (self._batches - 1) == 0
            if self._batches > 1 and is_power_of_two:
                self._add(batch)

    def _add(self, example: torch.Tensor) -> None:
        try:
            with NOBODY_RECORDS:
                self._recordings[example.shape] = self._record(self._tower, example)
        except RuntimeError as error:
            _log.warning(
                "inputs of shape %s are not run as a CUDA graph, which is slower: %s",
                tuple(example.shape), error,
            )  # fmt: skip


def record_on_gpu(tower: Tower, example: torch.Tensor) -> Recording:
    """Record one pass on the GPU.

    Args:
        tower: Runs on the current device.
        example: An input on the GPU.

    Raises:
        RuntimeError: If the tower cannot be recorded, or the GPU's memory does not do.
    """
    device = example.device
    source = example.clone()
    # A stream of the tower's own device: torch's default is that of the first recording. And
    # what was current is put back, also where torch's own block fails to.
    side = _streams(device).take()
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        # Warmed up on another stream, as PyTorch asks for.
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                tower(source)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        _streams(device).lend(side, graph)
        # Other threads may go on with the GPU meanwhile.
        with (
            _nothing_collected(),
            torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"),
        ):
            result = tower(source)
    return Recording(source, result, graph.replay)


class Streams:
    """Streams to record on, one for each recording that lives.

    A recording keeps the address of cuBLAS's workspace, which torch keeps for a stream. Torch 2.11
    to 2.14 free it with the first recording of that stream that goes, under the others
    (https://github.com/pytorch/pytorch/issues/193402).

    Args:
        make: Makes a stream.
    """

    def __init__(self, make: Callable[[], torch.cuda.Stream]) -> None:
        self._make = make
        self._free: list[torch.cuda.Stream] = []

    def take(self) -> torch.cuda.Stream:
        """Return a stream that no living recording has; for one caller at a time."""
        return self._free[-1] if self._free else self._make()

    def lend(self, stream: torch.cuda.Stream, graph: object) -> None:
        """Keep a stream that was taken for a graph until that goes."""
        if stream in self._free:
            self._free.remove(stream)
        weakref.finalize(graph, self._free.append, stream).atexit = False


@functools.cache
def _streams(device: torch.device) -> Streams:
    return Streams(lambda: torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keep Python from destroying an older recording, or a tensor, amid this one."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
