"""Towers that are replayed: by a double of a GPU's graph, and by a GPU where there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from vla_retrieval.encoders.cuda_graphs import (  # noqa: E402
    RecordedTower,
    Recording,
    Streams,
    record_on_gpu,
)


class Doubling:
    """A tower that counts its passes."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return batch * 2


class Graph:
    """Does with memory what a CUDA graph does: reads and writes where it was recorded."""

    def __init__(self) -> None:
        self.replays = 0
        self.inside = 0
        self.crowded = False

    def record(self, tower: Callable, example: torch.Tensor) -> Recording:
        source = example.clone()
        result = tower(source)

        def replay() -> None:
            self.inside += 1
            self.crowded |= self.inside > 1
            self.replays += 1
            torch.mul(source, 2, out=result)
            self.inside -= 1

        return Recording(source, result, replay)


def row(value: float, count: int = 1) -> torch.Tensor:
    return torch.full((count, 4), value)


def test_common_shapes_are_replayed_and_others_are_run() -> None:
    tower, graph = Doubling(), Graph()
    recorded = RecordedTower(tower, [row(0.0)], graph.record)
    assert recorded.shapes == {(1, 4)}
    assert torch.equal(recorded(row(3.0)), row(6.0))
    assert (tower.passes, graph.replays) == (1, 1)
    assert torch.equal(recorded(row(3.0, count=2)), row(6.0, count=2))
    assert (tower.passes, graph.replays) == (2, 1)


def test_a_result_is_not_overwritten_by_the_next_one() -> None:
    recorded = RecordedTower(Doubling(), [row(0.0)], Graph().record)
    first = recorded(row(1.0))
    recorded(row(5.0))
    assert torch.equal(first, row(2.0))


def test_whole_batches_are_recorded_when_they_come_again() -> None:
    tower, graph = Doubling(), Graph()
    recorded = RecordedTower(tower, [row(0.0)], graph.record, batch_size=3)
    assert recorded.shapes == {(1, 4)}
    for value in (1.0, 2.0, 3.0):
        assert torch.equal(recorded(row(value, count=3)), row(2 * value, count=3))
        assert torch.equal(recorded(row(value, count=2)), row(2 * value, count=2))
    assert recorded.shapes == {(1, 4), (3, 4)}
    assert graph.replays == 2


def test_a_batch_that_cannot_be_recorded_is_tried_again_ever_more_seldom(caplog) -> None:
    """Others may have had the memory, and given it back."""
    tower, graph, tries = Doubling(), Graph(), []

    def refuse(tower: Doubling, example: torch.Tensor) -> Recording:
        tries.append(tower.passes)
        if len(tries) < 4:
            raise RuntimeError("out of memory")
        return graph.record(tower, example)

    recorded = RecordedTower(tower, [], refuse, batch_size=3)
    for _ in range(19):
        assert torch.equal(recorded(row(1.0, count=3)), row(2.0, count=3))
    assert tries == [1, 3, 7, 15], "passes before the 2nd, 4th, 8th and 16th batch"
    assert graph.replays == 4
    assert "(3, 4)" in caplog.text


def test_a_recorded_batch_is_given_back_for_good_and_single_inputs_stay() -> None:
    tower, graph = Doubling(), Graph()
    recorded = RecordedTower(tower, [row(0.0)], graph.record, batch_size=3)
    assert not recorded.give_back()
    for _ in range(2):
        recorded(row(1.0, count=3))
    assert recorded.shapes == {(1, 4), (3, 4)}
    assert recorded.give_back()
    assert not recorded.give_back()
    for _ in range(4):
        assert torch.equal(recorded(row(2.0, count=3)), row(4.0, count=3))
    assert recorded.shapes == {(1, 4)}


class Held:
    """Stands for a stream, or for a graph."""


def test_each_living_recording_has_a_stream_of_its_own() -> None:
    """Torch 2.11 to 2.14 free a stream's workspace with the first recording of it that goes."""
    streams = Streams(Held)
    graphs, taken = [], []
    for _ in range(3):
        graphs.append(Held())
        taken.append(streams.take())
        streams.lend(taken[-1], graphs[-1])
    assert len(set(map(id, taken))) == 3
    assert streams.take() not in taken
    del graphs[1]
    again = Held()
    assert streams.take() is taken[1]
    streams.lend(taken[1], again)
    assert streams.take() not in taken


def test_a_recording_that_fails_takes_no_stream() -> None:
    streams = Streams(Held)
    graph = Held()
    first = streams.take()
    streams.lend(first, graph)
    del graph
    assert streams.take() is first  # and fails before it has a graph
    assert streams.take() is first


def test_a_batch_that_was_given_back_meanwhile_is_not_recorded_again() -> None:
    tower, graph = Doubling(), Graph()
    recorded = RecordedTower(tower, [], graph.record, batch_size=3)
    for _ in range(2):
        recorded(row(1.0, count=3))
    recorded.give_back()
    recorded._batches = 3  # of a thread that looked at the size before
    recorded._learn(row(1.0, count=3))
    assert recorded.shapes == set()


def test_one_recording_is_made_at_a_time_whatever_tower_it_is_of() -> None:
    """torch records one graph at a time in a process, and another one would spoil it."""
    graph, inside, most = Graph(), [], []

    def record(tower: Callable, example: torch.Tensor) -> Recording:
        inside.append(1)
        most.append(len(inside))
        started.set()
        may_end.wait(0.2)  # the other thread has time to come in, if it can
        inside.pop()
        return graph.record(tower, example)

    started, may_end = threading.Event(), threading.Event()
    towers = [RecordedTower(Doubling(), [], record, batch_size=1) for _ in range(2)]

    def twice(tower: RecordedTower) -> None:
        tower(row(1.0))
        tower(row(1.0))

    threads = [threading.Thread(target=twice, args=(tower,)) for tower in towers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]
    assert all(tower.shapes == {(1, 4)} for tower in towers)


def test_a_tower_that_cannot_be_recorded_is_run_and_a_warning_says_so(caplog) -> None:
    def refuse(tower: Callable, example: torch.Tensor) -> Recording:
        if len(example) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        return Graph().record(tower, example)

    recorded = RecordedTower(Doubling(), [row(0.0), row(0.0, count=2)], refuse)
    assert recorded.shapes == {(2, 4)}
    assert "shape (1, 4)" in caplog.text
    assert "not permitted when stream is capturing" in caplog.text
    assert torch.equal(recorded(row(4.0)), row(8.0))


def test_threads_do_not_use_one_recording_at_once() -> None:
    """Each gets what belongs to its own input."""
    graph = Graph()
    recorded = RecordedTower(Doubling(), [row(0.0)], graph.record)
    wrong: list[float] = []

    def ask(value: float) -> None:
        for _ in range(200):
            if not torch.equal(recorded(row(value)), row(2 * value)):
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(float(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not graph.crowded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_replays_what_it_would_compute() -> None:
    with torch.inference_mode():
        layer = torch.nn.Linear(64, 32).cuda().half()
        recorded = RecordedTower(
            layer, [torch.zeros((1, 64), device="cuda", dtype=torch.half)], record_on_gpu
        )
        assert recorded.shapes == {(1, 64)}
        for seed in range(3):
            torch.manual_seed(seed)
            batch = torch.randn((1, 64), device="cuda", dtype=torch.half)
            torch.testing.assert_close(recorded(batch), layer(batch))
