"""Batches for which a GPU's memory does not do.

No GPU is needed: the towers here raise the very error that torch raises there.
"""

from __future__ import annotations

import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch")

from vla_retrieval.encoders.batching import BatchLimit  # noqa: E402  (needs torch)
from vla_retrieval.errors import EncoderError  # noqa: E402

OutOfMemoryError = torch.cuda.OutOfMemoryError


class SmallGpu:
    """A tower that doubles its rows, on a device that has the memory for so many at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(batch))
        if len(batch) > self.room:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch * 2


def rows(count: int) -> torch.Tensor:
    return torch.arange(2.0 * count).reshape(count, 2)


@given(count=st.integers(1, 60), room=st.integers(1, 60), most=st.integers(1, 64))
def test_every_row_comes_back_in_its_order_whatever_the_memory_does_for(
    count: int, room: int, most: int
) -> None:
    """As if it had been one batch, and no batch is larger than what may be tried."""
    gpu, limit = SmallGpu(room), BatchLimit("clip", "cuda:0", most)
    assert torch.equal(limit.run(gpu, rows(count)), rows(count) * 2)
    assert max(gpu.tried) <= most
    assert limit.most == most or limit.most <= room


def test_a_batch_is_halved_until_the_memory_does_and_the_size_is_remembered() -> None:
    """What failed once is not tried again with the next one, and somebody is told."""
    gpu, limit = SmallGpu(room=3), BatchLimit("clip", "cuda:0", 32)
    assert limit.warning == ""
    limit.run(gpu, rows(8))
    assert gpu.tried == [8, 4, 2, 2, 2, 2]
    gpu.tried.clear()
    limit.run(gpu, rows(5))
    assert gpu.tried == [2, 2, 1]
    for words in ("cuda:0", "clip", "at most 2", "32 were wanted", "configure"):
        assert words in limit.warning


def test_one_row_that_is_too_much_is_a_clear_error_and_the_next_call_tries_again() -> None:
    """Another process may have left the memory since."""
    gpu, limit = SmallGpu(room=0), BatchLimit("clip", "cuda:0", 32)
    with pytest.raises(EncoderError, match=r"cuda:0 ran out of memory: clip .*batch of 1.*smaller"):
        limit.run(gpu, rows(2))
    gpu.room = 1
    assert torch.equal(limit.run(gpu, rows(2)), rows(2) * 2)


def test_other_errors_are_not_taken_for_a_want_of_memory() -> None:
    """They are raised at once."""

    def broken(batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        BatchLimit("clip", "cuda:0", 32).run(broken, rows(4))


@pytest.mark.parametrize(("free_mb", "device", "is_taken"), [
    (10, "cuda:1", True), (4000, "cuda:1", False), (10, "cpu", False),
])  # fmt: skip
def test_what_fails_on_a_gpu_that_is_full_is_taken_for_a_want_of_memory(
    monkeypatch, caplog, free_mb: int, device: str, is_taken: bool
) -> None:
    """Libraries say other things then: cuBLAS, that its execution failed."""
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda of: (asked.append(str(of)), (free_mb << 20, 1 << 35))[1]
    )

    def crowded(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")
        return batch * 2

    limit = BatchLimit("clip", device, 4)
    if is_taken:
        assert torch.equal(limit.run(crowded, rows(3)), rows(3) * 2)
        # What was really said is not lost: it may be another reason after all.
        assert "CUBLAS_STATUS_EXECUTION_FAILED" in caplog.text
    else:
        with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
            limit.run(crowded, rows(3))
    assert set(asked) <= {device}


def test_what_can_be_done_without_is_given_back_before_batches_become_smaller() -> None:
    gpu = SmallGpu(room=2)
    spare = [True]

    def give_back() -> bool:
        had = spare.pop() if spare else False
        gpu.room += 2 * had
        return had

    limit = BatchLimit("clip", "cuda:0", 4, give_back=give_back)
    assert torch.equal(limit.run(gpu, rows(8)), rows(8) * 2)
    assert gpu.tried == [4, 4, 4]
    assert limit.warning == ""


def test_nothing_of_the_failed_try_is_held_during_the_next() -> None:
    """An exception that is being handled would hold its frames, and they their tensors."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def tower(batch: torch.Tensor) -> torch.Tensor:
        alive.extend(reference() is not None for reference in held)
        intermediate = batch * 3
        held.append(weakref.ref(intermediate))
        if len(batch) > 1:
            raise OutOfMemoryError("CUDA out of memory.")
        return intermediate

    BatchLimit("clip", "cuda:0", 4).run(tower, rows(2))
    assert alive[0] is False


def test_threads_that_fail_together_lower_the_limit_once_each_and_all_come_through() -> None:
    """Two callers with a batch each: nobody gets the other's rows."""
    gpu, limit = SmallGpu(room=2), BatchLimit("clip", "cuda:0", 16)
    results: dict[int, torch.Tensor] = {}

    def run(number: int) -> None:
        results[number] = limit.run(gpu, rows(9) + number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert torch.equal(results[number], (rows(9) + number) * 2)
    assert limit.most in (1, 2)
