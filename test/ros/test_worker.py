"""The inference worker: order, bounds, and what happens at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="the worker belongs to the node")

from vla_retrieval.ros.jobs import Job, Jobs
from vla_retrieval.ros.worker import (
    MOST_STUCK,
    InferenceWorker,
    Priority,
    WorkerBusyError,
    WorkerClosedError,
    WorkerStalledError,
    effect,
)

WAIT_SEC = 20.0


class Gate:
    """Holds the worker in a job until it is opened."""

    def __init__(self, worker: InferenceWorker, then: Callable[[], None] = lambda: None) -> None:
        """Occupy the worker; when it is opened, the job does something more."""
        self.entered, self._opened = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self.reasons: list[Exception] = []
        self._then = then
        worker.submit(self._hold, self.reasons.append)
        assert self.entered.wait(WAIT_SEC)

    def _hold(self) -> None:
        self.entered.set()
        assert self._opened.wait(WAIT_SEC)
        try:
            self._then()
        finally:
            self.ended.set()

    def open(self) -> None:
        """Let the worker go on."""
        self._opened.set()


@pytest.fixture
def worker() -> Iterator[InferenceWorker]:
    """Return a worker with room for three."""
    worker = InferenceWorker(max_waiting=3)
    yield worker
    worker.close()


def ignore(_: Exception) -> None:
    """Take a reason and do nothing."""


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
        worker.submit(lambda text=text: ran.append(text), ignore, instruction=text)
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


def waiting_jobs(**instructions_of: list[str]) -> Jobs:
    """Return jobs that wait, by the name of their priority."""
    jobs = Jobs(most=32, most_bytes=1)
    for name, instructions in instructions_of.items():
        for text in instructions:
            jobs.put(Job(lambda: None, ignore, text, name, 0, Priority[name]))
    return jobs


def test_a_batch_has_room_for_questions_before_pairs_that_came_first() -> None:
    jobs = waiting_jobs(INGEST=[f"pair {n}" for n in range(9)], REQUEST=["question"])
    assert jobs.to_embed("first")[:2] == ["first", "question"]


def test_an_instruction_of_an_earlier_batch_is_embedded_ahead_again() -> None:
    """What keeps embeddings is bounded: it may have forgotten that one."""
    jobs = waiting_jobs(REQUEST=["bowl"])
    assert [jobs.to_embed(text) for text in ("cup", "cup", "plate", "cup")] == [
        ["cup", "bowl"], [], ["plate", "bowl"], ["cup", "bowl"],
    ]  # fmt: skip


def test_a_single_request_waits_for_no_batch() -> None:
    """Idle, nothing is done ahead."""
    assert batches_of(["cup"]) == ([], ["cup"])


def test_a_batch_that_fails_stops_no_request() -> None:
    """Each request finds out by itself what is wrong."""
    _, ran = batches_of(["cup", "bowl"], fail=True)
    assert ran == ["cup", "bowl"]


def run_one(worker: InferenceWorker) -> None:
    """Return when the worker has run a job."""
    done = threading.Event()
    worker.submit(done.set, ignore)
    assert done.wait(WAIT_SEC)


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


def test_a_replaced_thread_has_its_job_answered_and_those_that_wait_are_run(
    worker: InferenceWorker,
) -> None:
    """The caller gets the reason and that nothing was changed; no other one is lost."""
    gate, done = Gate(worker), threading.Event()
    worker.submit(done.set, ignore)
    worker.replace("it took too long")
    assert done.wait(WAIT_SEC)
    (reason,) = gate.reasons
    assert isinstance(reason, WorkerStalledError)
    for words in ("it took too long", "Nothing was changed", "worker_stall_sec"):
        assert words in str(reason)
    assert (worker.replaced, worker.stuck, worker.last_reason) == (1, 1, "it took too long")
    gate.open()


def test_a_replaced_thread_changes_nothing_when_it_comes_back(worker: InferenceWorker) -> None:
    """Not even where it got as far as that at the same moment."""
    changed: list[str] = []

    def change() -> None:
        with effect("it was changed"):
            changed.append("changed")

    gate = Gate(worker, change)
    worker.replace("it took too long")
    gate.open()
    assert gate.ended.wait(WAIT_SEC)
    assert changed == []
    worker.submit(change, ignore)
    run_one(worker)
    assert changed == ["changed"], "the new thread may"


def test_a_thread_that_is_replaced_amid_a_change_leaves_the_outcome_open(
    worker: InferenceWorker,
) -> None:
    """The caller is told, because the change may be made yet."""
    inside, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    reasons: list[Exception] = []

    def change() -> None:
        with effect("the pair was stored"):
            inside.set()
            assert go_on.wait(WAIT_SEC)
        ended.set()

    worker.submit(change, reasons.append)
    assert inside.wait(WAIT_SEC)
    worker.replace("the disk did not come back")
    assert "while the pair was stored, and whether that was done is not known" in str(reasons[0])
    go_on.set()
    assert ended.wait(WAIT_SEC)


def test_a_thread_that_is_replaced_after_a_change_says_that_it_was_made(
    worker: InferenceWorker,
) -> None:
    """Such as amid reading how many entries are left: who is told of no change asks again."""
    changed, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    reasons: list[Exception] = []

    def change() -> None:
        with effect("the entries were forgotten"):
            pass
        with pytest.raises(ZeroDivisionError), effect("the matches were published"):
            raise ZeroDivisionError
        changed.set()
        assert go_on.wait(WAIT_SEC)
        ended.set()

    worker.submit(change, reasons.append)
    assert changed.wait(WAIT_SEC)
    worker.replace("the disk did not come back")
    said = str(reasons[0])
    assert "It stalled after the entries were forgotten: that is done." in said
    for words in ("Nothing was changed", "Ask again", "published"):
        assert words not in said
    go_on.set()
    assert ended.wait(WAIT_SEC)


def test_where_no_thread_is_to_be_had_the_job_is_answered_and_one_is_started_later(
    worker: InferenceWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(worker)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", MagicMock(side_effect=RuntimeError("no thread")))
        worker.replace("it took too long")
        assert [type(reason) for reason in gate.reasons] == [WorkerStalledError]
        with pytest.raises(RuntimeError, match="no thread"):
            worker.go_on()
    worker.go_on()
    run_one(worker)
    gate.open()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_noticed_and_replaced(worker: InferenceWorker) -> None:
    """Whatever ended it, its job is answered for."""
    reasons: list[Exception] = []

    def die() -> None:
        raise SystemExit

    worker.submit(die, reasons.append)
    while not worker.has_died:
        threading.Event().wait(0.001)
    worker.replace("the inference thread died")
    run_one(worker)
    assert [type(reason) for reason in reasons] == [WorkerStalledError]
    assert (worker.has_died, worker.stuck) == (False, 0)


def test_after_too_many_stuck_threads_there_is_no_other_until_one_comes_back(
    worker: InferenceWorker,
) -> None:
    """Requests are refused with the reason and the next step meanwhile: threads are bounded."""
    gates, reasons = [], []
    for number in range(MOST_STUCK):
        gates.append(Gate(worker))
        if number == MOST_STUCK - 1:
            worker.submit(lambda: None, reasons.append)
        worker.replace("the device hangs")
    assert [type(reason) for reason in reasons] == [WorkerStalledError]
    assert worker.stuck == MOST_STUCK
    worker.go_on()
    with pytest.raises(WorkerStalledError, match=r"the device hangs.*configure"):
        worker.submit(lambda: None, ignore)
    gates[0].open()
    while worker.stuck == MOST_STUCK:
        threading.Event().wait(0.001)
    worker.go_on()
    run_one(worker)
    for gate in gates[1:]:
        gate.open()


def test_closing_does_not_wait_longer_than_it_is_told_for_the_job_in_hand() -> None:
    """Whoever waits for that job is answered, and it changes nothing any more."""
    worker, refused = InferenceWorker(max_waiting=3), threading.Event()

    def change() -> None:
        with pytest.raises(WorkerStalledError), effect("it was changed"):
            raise AssertionError("it was changed")
        refused.set()

    gate = Gate(worker, change)
    assert not worker.close(within_sec=0.01)
    assert [type(reason) for reason in gate.reasons] == [WorkerClosedError]
    gate.open()
    assert refused.wait(WAIT_SEC)


def test_closing_amid_a_change_leaves_the_outcome_open() -> None:
    """Who is told that the node is not active would store the pair once more."""
    worker, inside, go_on = InferenceWorker(max_waiting=3), threading.Event(), threading.Event()
    reasons: list[Exception] = []

    def change() -> None:
        with effect("the pair was stored"):
            inside.set()
            assert go_on.wait(WAIT_SEC)

    worker.submit(change, reasons.append)
    assert inside.wait(WAIT_SEC)
    assert not worker.close(within_sec=0.01)
    assert [type(reason) for reason in reasons] == [WorkerStalledError]
    assert "while the pair was stored, and whether that was done is not known" in str(reasons[0])
    go_on.set()
