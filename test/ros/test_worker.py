"""The inference worker: order, bounds, and what happens at the end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="the worker belongs to the node")

from vla_retrieval.ros.jobs import Job, Jobs
from vla_retrieval.ros.worker import (
    InferenceWorker,
    Priority,
    WorkerBusyError,
    WorkerClosedError,
)

from .inference import WAIT_SEC, Gate, ignore


def test_requests_go_before_frames_and_equals_in_order(worker: InferenceWorker) -> None:
    """A planner does not wait behind the camera."""
    gate, ran, done = Gate(worker), [], threading.Event()
    worker.submit(lambda: (ran.append("frame"), done.set()), ignore, Priority.FRAME)
    worker.submit(lambda: ran.append("first"), ignore)
    worker.submit(lambda: ran.append("second"), ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    assert ran == ["first", "second", "frame"]


def test_a_full_queue_refuses_at_once(worker: InferenceWorker) -> None:
    """The fourth waiting job is told how many wait."""
    gate = Gate(worker)
    for _ in range(3):
        worker.submit(lambda: None, ignore)
    with pytest.raises(WorkerBusyError, match="3 requests"):
        worker.submit(lambda: None, ignore)
    gate.open()


def test_closing_gives_up_those_that_wait_and_refuses_new_ones() -> None:
    """Nobody is left without an answer."""
    worker = InferenceWorker(max_waiting=3)
    gate, reasons = Gate(worker), []
    worker.submit(lambda: reasons.append("ran"), reasons.append)
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not reasons:
        threading.Event().wait(0.001)
    gate.open()
    closing.join(WAIT_SEC)
    assert [type(reason) for reason in reasons] == [WorkerClosedError]
    with pytest.raises(WorkerClosedError):
        worker.submit(lambda: None, ignore)


def test_a_failing_job_is_reported_and_the_next_one_runs(worker: InferenceWorker) -> None:
    """A defect in one request does not end the thread."""
    reasons: list[Exception] = []
    done = threading.Event()
    worker.submit(lambda: 1 / 0, reasons.append)
    worker.submit(done.set, ignore)
    assert done.wait(WAIT_SEC)
    assert [type(reason) for reason in reasons] == [ZeroDivisionError]


def test_a_flood_of_requests_does_not_starve_the_frame() -> None:
    """What waits behind a full queue of requests has its turn after four of them."""
    worker = InferenceWorker(max_waiting=32)
    gate, ran, done = Gate(worker), [], threading.Event()
    for number in range(32):
        worker.submit(lambda number=number: ran.append(number), ignore)
    worker.submit(lambda: (ran.append("frame"), done.set()), ignore, Priority.FRAME)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    assert ran[:5] == [0, 1, 2, 3, "frame"]


def test_what_is_to_be_remembered_waits_for_questions_and_for_a_frame() -> None:
    """Though it came first."""
    worker = InferenceWorker(max_waiting=32)
    gate, ran, done = Gate(worker), [], threading.Event()
    worker.submit(lambda: (ran.append("pair"), done.set()), ignore, Priority.INGEST)
    worker.submit(lambda: ran.append("frame"), ignore, Priority.FRAME)
    worker.submit(lambda: ran.append("question"), ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    assert ran == ["question", "frame", "pair"]


def test_pairs_and_questions_share_the_room_for_what_they_hold() -> None:
    """And not the number that may wait: a flood of pairs refuses no question."""
    worker = InferenceWorker(max_waiting=2, max_waiting_bytes=3 << 20)
    gate = Gate(worker)
    for _ in range(2):
        worker.submit(lambda: None, ignore, Priority.INGEST, size_bytes=1 << 20)
    with pytest.raises(WorkerBusyError, match="2 waiting requests hold 2 MB"):
        worker.submit(lambda: None, ignore, size_bytes=2 << 20)
    worker.submit(lambda: None, ignore, size_bytes=1 << 20)
    gate.open()
    worker.close()


def test_neither_questions_nor_frames_keep_a_pair_waiting_for_ever() -> None:
    """It shares the turns that questions leave with the frames."""
    worker = InferenceWorker(max_waiting=32)
    gate, ran, done = Gate(worker), [], threading.Event()

    def look() -> None:
        ran.append("frame")
        if not done.is_set():
            worker.submit(look, ignore, Priority.FRAME)

    worker.submit(look, ignore, Priority.FRAME)
    worker.submit(lambda: (ran.append("pair"), done.set()), ignore, Priority.INGEST)
    for _ in range(12):
        worker.submit(lambda: ran.append("question"), ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    assert ran[:10] == [*["question"] * 4, "frame", *["question"] * 4, "pair"]


def shared_turns(sec: dict[Priority, float]) -> list[str]:
    """Return who had each turn, where frames and pairs that never end take so long each."""
    jobs = Jobs(most=32, most_bytes=1)

    def put(priority: Priority) -> None:
        jobs.put(Job(lambda: None, ignore, "", priority.name, 0, priority))

    for priority in sec:
        put(priority)
    turns = []
    for _ in range(40):
        job = jobs.take()
        turns.append(job.kind)
        jobs.note(job, sec[job.priority])
        put(job.priority)
    return turns


def test_pairs_that_take_next_to_nothing_do_not_wait_for_a_frame_each() -> None:
    """A frame is looked at, and those that wait with it are stored before the next one is."""
    turns = shared_turns({Priority.FRAME: 10.0, Priority.INGEST: 1.0})
    assert turns[:12] == ["FRAME"] + ["INGEST"] * 10 + ["FRAME"]


def test_pairs_that_take_long_do_not_take_more_time_than_the_frames() -> None:
    """Whoever had less has the next turn."""
    turns = shared_turns({Priority.FRAME: 1.0, Priority.INGEST: 4.0})
    assert turns[:10] == ["FRAME", "INGEST", *["FRAME"] * 3, "FRAME", "INGEST", *["FRAME"] * 3]


def test_what_pairs_took_while_no_frame_waited_is_not_held_against_them() -> None:
    """Else a camera that was off for an hour would have the next hour for itself."""
    jobs = Jobs(most=32, most_bytes=1)

    def put(priority: Priority) -> None:
        jobs.put(Job(lambda: None, ignore, "", priority.name, 0, priority))

    put(Priority.INGEST)
    jobs.note(jobs.take(), 3600.0)
    for priority in (Priority.FRAME, Priority.INGEST, Priority.FRAME):
        put(priority)
    turns = []
    for _ in range(2):
        job = jobs.take()
        turns.append(job.kind)
        jobs.note(job, 1.0)
    assert turns == ["FRAME", "INGEST"]


@given(
    st.lists(st.sampled_from(Priority), max_size=14),
    st.integers(0, 14),
    st.lists(st.floats(0, 10), min_size=14, max_size=14),
)
def test_who_runs_before_a_request_is_told_as_it_then_happens(
    waiting: list[Priority], taken: int, seconds: list[float]
) -> None:
    """Requests that came before, and every fifth turn a frame or a pair."""
    jobs = Jobs(most=32, most_bytes=1)
    for number, priority in enumerate(waiting):
        jobs.put(Job(lambda: None, ignore, "", f"{priority.name} {number}", 0, priority))
    for _, took_sec in zip(range(min(taken, len(waiting))), seconds, strict=False):
        jobs.note(jobs.take(), took_sec)
    told = jobs.before_a_request()
    last = Job(lambda: None, ignore, "", "the last one", 0, Priority.REQUEST)
    jobs.put(last)
    happened = list(iter(jobs.take, last))
    assert told == happened


def test_requests_are_not_held_up_by_frames_that_come_again_and_again() -> None:
    """Between two frames four requests run, and no request waits for a second frame in a row."""
    worker = InferenceWorker(max_waiting=32)
    gate, ran, done = Gate(worker), [], threading.Event()

    def look() -> None:
        ran.append("frame")
        if ran.count("frame") < 3:
            worker.submit(look, ignore, Priority.FRAME)
        else:
            done.set()

    worker.submit(look, ignore, Priority.FRAME)
    for _ in range(12):
        worker.submit(lambda: ran.append("request"), ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    assert ran[:14] == (["request"] * 4 + ["frame"]) * 2 + ["request"] * 4


def test_a_full_queue_of_requests_has_room_for_a_frame(worker: InferenceWorker) -> None:
    """Frames are bounded by themselves."""
    gate, done = Gate(worker), threading.Event()
    for _ in range(3):
        worker.submit(lambda: None, ignore)
    worker.submit(done.set, ignore, Priority.FRAME)
    gate.open()
    assert done.wait(WAIT_SEC)


def batches_of(instructions: list[str], *, fail: bool = False) -> tuple[list[list[str]], list[str]]:
    """Return what was embedded ahead and which jobs ran, for requests that wait together."""
    batches: list[list[str]] = []

    def embed(texts: Sequence[str]) -> None:
        batches.append(list(texts))
        if fail:
            raise ValueError("one of them is malformed")

    worker = InferenceWorker(max_waiting=64, embed_ahead=embed)
    gate, ran, done = Gate(worker), [], threading.Event()
    for text in instructions:
        worker.submit(lambda text=text: ran.append(text), ignore, inputs=(text,) if text else ())
    worker.submit(done.set, ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    worker.close()
    return batches, ran


def test_instructions_that_wait_together_are_embedded_together() -> None:
    """Each once, in batches of at most eight, and the jobs still run one by one."""
    texts = ["cup", "bowl", "", "cup"] + [f"block {i}" for i in range(12)]
    batches, ran = batches_of(texts)
    assert ran == texts
    assert batches[0] == ["cup", "bowl"] + [f"block {i}" for i in range(6)]
    assert batches[1] == [f"block {i}" for i in range(6, 12)]
    assert len(batches) == 2


def job(text: str, priority: Priority = Priority.REQUEST, more: tuple[Hashable, ...] = ()) -> Job:
    return Job(lambda: None, ignore, (text, *more), priority.name, 0, priority)


def waiting_jobs(**instructions_of: list[str]) -> Jobs:
    """Return jobs that wait, by the name of their priority."""
    jobs = Jobs(most=32, most_bytes=1)
    for name, instructions in instructions_of.items():
        for text in instructions:
            jobs.put(job(text, Priority[name]))
    return jobs


def test_a_batch_has_room_for_questions_before_pairs_that_came_first() -> None:
    jobs = waiting_jobs(INGEST=[f"pair {n}" for n in range(9)], REQUEST=["question"])
    assert jobs.to_embed(job("first"))[:2] == ["first", "question"]


def test_what_was_embedded_ahead_is_not_embedded_again_by_its_own_job_nor_for_others() -> None:
    jobs = waiting_jobs(REQUEST=["bowl", "plate"])
    assert jobs.to_embed(job("cup")) == ["cup", "bowl", "plate"]
    jobs.put(job("jar"))
    assert jobs.to_embed(jobs.take()) == []  # the bowl
    assert jobs.to_embed(job("cup")) == ["cup", "jar"]
    assert [jobs.to_embed(jobs.take()) for _ in range(2)] == [[], []]


def test_a_job_is_in_one_batch_with_all_that_it_needs_or_in_none() -> None:
    jobs = Jobs(most=32, most_bytes=1, most_ahead=4)
    for number in range(3):
        jobs.put(job(f"text {number}", more=(f"picture {number}",)))
    first = jobs.take()
    assert jobs.to_embed(first) == ["text 0", "picture 0", "text 1", "picture 1"]
    assert [jobs.to_embed(jobs.take()) for _ in range(2)] == [[], []]


@pytest.mark.parametrize("goes", ["taken", "taken back", "cleared"])
def test_nothing_is_held_of_a_job_that_is_gone(goes: str) -> None:
    """A picture that was decoded has some hundred megabytes."""

    class Picture:
        pass

    picture = Picture()
    watch = weakref.ref(picture)
    jobs = Jobs(most=32, most_bytes=1)
    waits = job("cup", more=(picture,))
    jobs.put(waits)
    assert jobs.to_embed(job("bowl")) == ["bowl", "cup", picture]
    if goes == "taken":
        assert jobs.to_embed(jobs.take()) == []
    elif goes == "taken back":
        jobs.discard(waits)
    else:
        jobs.clear()
    del picture, waits
    gc.collect()
    assert watch() is None


def test_a_single_request_waits_for_no_batch() -> None:
    """Idle, nothing is done ahead."""
    assert batches_of(["cup"]) == ([], ["cup"])


def test_a_batch_that_fails_stops_no_request() -> None:
    """Each request finds out by itself what is wrong."""
    _, ran = batches_of(["cup", "bowl"], fail=True)
    assert ran == ["cup", "bowl"]


def test_a_job_that_is_taken_back_leaves_its_place_to_another(worker: InferenceWorker) -> None:
    """Whoever gave up waiting does not fill the queue."""
    gate, ran, done = Gate(worker), [], threading.Event()
    jobs = [worker.submit(lambda n=n: ran.append(n), ignore) for n in range(3)]
    worker.withdraw(jobs[1])
    worker.withdraw(jobs[1])
    worker.submit(lambda: (ran.append(3), done.set()), ignore)
    gate.open()
    assert done.wait(WAIT_SEC)
    assert ran == [0, 2, 3]


def test_waiting_jobs_may_not_hold_more_than_so_many_bytes() -> None:
    """The refusal has the sizes and the parameter; one alone may be as large as it likes."""
    worker = InferenceWorker(max_waiting=9, max_waiting_bytes=10 << 20)
    gate = Gate(worker)
    worker.submit(lambda: None, ignore, size_bytes=11 << 20)
    with pytest.raises(
        WorkerBusyError, match=r"hold 11 MB.*has 4 MB.*at most 10 MB.*max_waiting_mb"
    ):
        worker.submit(lambda: None, ignore, size_bytes=4 << 20)
    worker.submit(lambda: None, ignore, Priority.FRAME, size_bytes=4 << 20)
    gate.open()
    worker.close()


def test_those_in_front_are_told_by_kind_the_one_in_hand_first(worker: InferenceWorker) -> None:
    """With how long that one runs; a frame that waits is not in front of a request."""
    gate = Gate(worker)
    worker.submit(lambda: None, ignore, kind="text")
    worker.submit(lambda: None, ignore, Priority.FRAME, kind="look")
    worker.submit(lambda: None, ignore, kind="image")
    (_, running_sec), *waiting = worker.in_front()
    assert running_sec > 0.0
    assert waiting == [("text", 0.0), ("image", 0.0)]
    gate.open()
