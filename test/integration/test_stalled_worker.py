"""An encoder that does not come back, and one that runs out of memory: the node goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.types import Embeddings, RgbImage
from vla_retrieval_msgs.msg import MatchArray, Status

from .harness import START_SEC, WAIT_SEC, Robot, image_message, picture, wait_until
from .local_node import LocalNode
from .parameters import Manager

STALL_SEC = 0.5


class Hanging(DoubleEncoder):
    """Hangs at each image and instruction while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.hanging = threading.Event()
        self._go_on = threading.Event()
        self.came_back = threading.Semaphore(0)

    def hang(self) -> None:
        """Hang from now on, until `release`."""
        self.hangs = True

    def heal(self) -> None:
        """Hang no more; who hangs already stays so."""
        self.hangs = False

    def release(self) -> None:
        """Let those that hang come back."""
        self.heal()
        self._go_on.set()

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        self._pass()
        return super().encode_images(images)

    def encode_instructions(self, texts: Sequence[str]) -> Embeddings:
        self._pass()
        return super().encode_instructions(texts)

    def _pass(self) -> None:
        if self.hangs:
            self.hanging.set()
            assert self._go_on.wait(WAIT_SEC)
            self.came_back.release()


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Hanging:
    encoder = Hanging()
    monkeypatch.setattr("vla_retrieval.ros.session.load_encoder", lambda _: encoder)
    return encoder


@pytest.fixture
def here(domain: int, tmp_path: Path, encoder: Hanging) -> Iterator[LocalNode]:
    node = LocalNode(tmp_path / "memory", worker_stall_sec=STALL_SEC, diagnostics_period_sec=0.2)
    yield node
    encoder.release()
    node.close()


@pytest.fixture
def planner(here: LocalNode, robot: Robot) -> Robot:
    assert robot.client.wait_until_active(lambda: True, START_SEC)
    return robot


def remember(planner: Robot, seed: int) -> Any:
    image = image_message(picture(seed), seed)
    return planner.call("remember", image=image, instruction=f"task {seed}")


def facts_of(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def threads_that_came_back(here: LocalNode) -> None:
    """Return when no thread is stuck any more."""
    lanes = here.node.active_session().lanes
    wait_until(lambda: lanes.stuck == 0, "the stuck thread to end")


def test_a_request_that_hangs_is_answered_and_the_others_go_on(
    here: LocalNode, planner: Robot, encoder: Hanging
) -> None:
    """The diagnostics say how often and why, and nothing that was acknowledged is lost."""
    kept = remember(planner, 1)
    assert kept.success, kept.message
    reports = planner.collect(DiagnosticArray, "/diagnostics")
    encoder.hang()
    hangs = planner.client.call_async("retrieve", instruction="hangs", k=1)
    assert encoder.hanging.wait(WAIT_SEC)
    waits = planner.client.call_async("get_entry", entry_id=kept.entry_id)
    wait_until(hangs.done, "an answer")
    answer = hangs.result()
    assert answer.status.code == Status.STALLED
    assert "longer than 0.5 s (worker_stall_sec)" in answer.message
    assert "Nothing was changed" in answer.message
    wait_until(waits.done, "the answer to the one that waited")
    assert waits.result().success
    encoder.heal()
    found = planner.call("retrieve", instruction="task 1", k=1)
    assert found.result.matches[0].entry_id == kept.entry_id
    stats = planner.call("get_stats")
    assert (stats.worker_replaced, stats.worker_threads_stuck) == (1, 1)
    assert "worker_stall_sec" in stats.worker_replaced_because
    report = reports.wait_for(
        lambda m: facts_of(m.status[0]).get("worker_threads_stuck") == "1"
    ).status[0]
    assert report.level == DiagnosticStatus.ERROR
    assert "replaced 1 times" in report.message
    assert "worker_stall_sec" in facts_of(report)["worker_replaced_because"]
    assert "worker_stall_sec" in facts_of(report)["last_error"]


def test_a_pair_whose_encoding_hung_is_not_stored_when_it_comes_back(
    here: LocalNode, planner: Robot, encoder: Hanging
) -> None:
    """Its caller was told that nothing was changed."""
    encoder.hang()
    answer = remember(planner, 1)
    assert "Nothing was changed" in answer.message
    encoder.release()
    assert encoder.came_back.acquire(timeout=WAIT_SEC)
    threads_that_came_back(here)
    assert planner.call("get_stats").memory_size == 0
    assert remember(planner, 2).success


def test_a_frame_that_hung_is_not_published_when_it_comes_back(
    here: LocalNode, planner: Robot, encoder: Hanging
) -> None:
    """Newer ones are, meanwhile."""
    assert remember(planner, 1).success
    matches = planner.collect(MatchArray, "retrieval/matches")
    planner.wait_until_heard()
    encoder.hang()
    hung_ns, next_ns = 1_000, 2_000

    def hangs() -> bool:
        planner.show(picture(1), hung_ns)
        return encoder.hanging.is_set()

    wait_until(hangs, "a frame that hangs", period_sec=0.1)
    lanes = here.node.active_session().lanes
    wait_until(lambda: lanes.replaced > 0, "the watchdog")
    encoder.heal()

    def answered() -> bool:
        planner.show(picture(1), next_ns)
        return any(m.header.stamp.nanosec == next_ns for m in matches.messages)

    wait_until(answered, "the answer to a newer frame", period_sec=0.1)
    encoder.release()
    threads_that_came_back(here)
    assert planner.call("get_stats").success
    stamps = [m.header.stamp.nanosec for m in matches.messages]
    assert hung_ns not in stamps[stamps.index(next_ns) :]


def test_a_frame_in_hand_says_nothing_in_the_next_activation(
    domain: int, tmp_path: Path, encoder: Hanging, robot: Robot
) -> None:
    """It is neither published nor remembered with the instruction of the one before."""
    node = LocalNode(tmp_path / "memory", remember_mode="interval")
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        matches = robot.collect(MatchArray, "retrieval/matches")
        live = node.node._live
        assert live is not None

        def heard() -> bool:
            robot.say("of the one before")
            return live._instruction is not None

        wait_until(heard, "the instruction", period_sec=0.1)
        encoder.hang()
        old_ns, new_ns = 1_000, 2_000

        def seen(stamp_ns: int, happened: Callable[[], bool]) -> None:
            def look() -> bool:
                robot.show(picture(1), stamp_ns)
                return happened()

            wait_until(look, f"the frame of {stamp_ns}", period_sec=0.1)

        seen(old_ns, encoder.hanging.is_set)
        manager = Manager(robot)
        assert manager.try_to("deactivate")
        assert manager.try_to("activate")
        encoder.release()
        seen(new_ns, lambda: any(m.header.stamp.nanosec == new_ns for m in matches.messages))
        assert all(m.header.stamp.nanosec == new_ns for m in matches.messages)
        assert robot.call("get_stats").memory_size == 0
    finally:
        encoder.release()
        node.close()


def test_an_encoder_that_hangs_each_time_is_not_given_threads_without_end(
    here: LocalNode, planner: Robot, encoder: Hanging
) -> None:
    """Requests are refused at once then, until it comes back; the node answers throughout."""
    encoder.hang()
    for n in range(3):
        assert not planner.call("retrieve", instruction=f"{n}").success
    refused = planner.call("retrieve", instruction="x", timeout_sec=30.0)
    assert "3 threads in a row did not come back" in refused.message
    assert "configure" in refused.message
    encoder.release()
    wait_until(lambda: planner.call("get_stats").success, "inference that goes on")


def test_a_node_ends_though_its_encoder_hangs(
    domain: int, tmp_path: Path, encoder: Hanging, robot: Robot
) -> None:
    """It waits two seconds for the job in hand, and not for ever."""
    node = LocalNode(tmp_path / "memory")
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        encoder.hang()
        waits = robot.client.call_async("retrieve", instruction="x")
        assert encoder.hanging.wait(WAIT_SEC)
        node.node.trigger_deactivate()
        node.node.trigger_cleanup()
        wait_until(waits.done, "an answer")
        assert waits.result().status.code == Status.NOT_ACTIVE
        assert node.node.session is None
    finally:
        encoder.release()
        node.close()


class Crowded(DoubleEncoder):
    """Shares its GPU with others: its memory does for so many images at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        torch = pytest.importorskip("torch")
        from vla_retrieval.encoders.batching import BatchLimit

        self.room = room
        self._torch = torch
        self._limit = BatchLimit("double", "cuda:0", 4)

    @property
    def warning(self) -> str:
        return self._limit.warning

    def encode_instructions(self, texts: Sequence[str]) -> Embeddings:
        indices = self._torch.arange(len(texts))

        def tower(part: Any) -> Any:
            if len(part) > self.room:
                raise self._torch.cuda.OutOfMemoryError("CUDA out of memory.")
            rows = DoubleEncoder.encode_instructions(self, [texts[i] for i in part.tolist()])
            return self._torch.from_numpy(rows)

        return np.asarray(self._limit.run(tower, indices))


def test_a_gpu_without_memory_fails_requests_with_the_reason_and_not_the_node(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robot: Robot
) -> None:
    """Smaller batches first; then an error that names device and batch; later it works again."""
    encoder = Crowded(room=4)
    monkeypatch.setattr("vla_retrieval.ros.session.load_encoder", lambda _: encoder)
    node = LocalNode(tmp_path / "memory", diagnostics_period_sec=0.2)
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        assert remember(robot, 1).success
        encoder.room = 1
        encoder.encode_instructions(["two", "at once"])
        reports = robot.collect(DiagnosticArray, "/diagnostics")
        report = reports.wait_for(lambda m: "ran out of memory" in m.status[0].message).status[0]
        assert report.level == DiagnosticStatus.WARN
        assert "at most 1 inputs at once" in report.message
        encoder.room = 0
        refused = robot.call("retrieve", instruction="x")
        assert refused.status.code == Status.INTERNAL
        for words in ("cuda:0 ran out of memory", "double", "a batch of 1", "smaller"):
            assert words in refused.message
        encoder.room = 1
        assert robot.call("retrieve", instruction="x", k=1).result.matches
    finally:
        node.close()


class Defective(DoubleEncoder):
    """Fails at each image, and not in a way that anybody foresaw."""

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        raise ZeroDivisionError("a defect")


def test_a_defect_that_frames_meet_is_counted_and_in_the_diagnostics(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robot: Robot
) -> None:
    """As one that requests meet is."""
    monkeypatch.setattr("vla_retrieval.ros.session.load_encoder", lambda _: Defective())
    monkeypatch.setattr(Defective, "warm_up", lambda _: None)
    node = LocalNode(tmp_path / "memory", diagnostics_period_sec=0.2)
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        reports = robot.collect(DiagnosticArray, "/diagnostics")
        robot.wait_until_heard()

        def told() -> bool:
            robot.show(picture(1), 1)
            return any("a defect" in facts_of(m.status[0])["last_error"] for m in reports.messages)

        wait_until(told, "the defect", period_sec=0.1)
        assert robot.call("get_stats").queries_failed > 0
    finally:
        node.close()


@pytest.mark.parametrize("there", [True, False])
def test_diagnostics_that_cannot_be_published_are_a_defect_unless_a_signal_ended_the_node(
    domain: int, tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("publisher's context is invalid")

    local = LocalNode(tmp_path / "memory", active=False, diagnostics_period_sec=3600.0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(local.node._diagnostics_publisher, "publish", fail)
            patch.setattr(local.node.context, "ok", lambda: there)
            with pytest.raises(RuntimeError) if there else contextlib.nullcontext():
                local.node._on_diagnostics()
    finally:
        local.close()


def test_a_request_whose_callback_fails_is_answered_and_the_node_goes_on(
    here: LocalNode, planner: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr("vla_retrieval.ros.services.check_request_size", fail)
        refused = planner.call("retrieve", instruction="x")
    assert refused.status.code == Status.INTERNAL
    assert "ZeroDivisionError" in refused.message
    assert planner.call("retrieve", instruction="x").success
