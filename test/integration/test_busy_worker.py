"""What callers get while the inference threads are held up: the node in this process, gated."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vla_retrieval.ros import conversions
from vla_retrieval.ros.frames import Frame
from vla_retrieval.ros.worker import InferenceWorker
from vla_retrieval.types import RgbImage
from vla_retrieval_msgs.msg import MatchArray, Status

from .harness import START_SEC, WAIT_SEC, Robot, image_message, picture, wait_until
from .local_node import LocalNode

SEEN_NS = 1_000_000_000
HOURS_SEC = 3000.0


class GatedNode(LocalNode):
    """An active node whose inference threads stand still until they are released."""

    def __init__(self, memory_dir: Path) -> None:
        super().__init__(memory_dir, max_waiting_requests=3)
        self._gate = threading.Event()

    def hold(self) -> None:
        """Return once both inference threads stand still."""
        lanes = self.node.active_session().lanes
        self.hold_one(lanes.pictures)
        self.hold_one(lanes.words)

    def hold_one(self, worker: InferenceWorker) -> None:
        """Return once that thread stands still."""
        entered = threading.Event()

        def stand_still() -> None:
            entered.set()
            self._gate.wait(WAIT_SEC)

        worker.submit(stand_still, lambda _: None)
        assert entered.wait(WAIT_SEC)

    def release(self) -> None:
        """Let them go on."""
        self._gate.set()

    def close(self) -> None:
        self.release()
        super().close()


@pytest.fixture
def gated(domain: int, tmp_path: Path) -> Iterator[GatedNode]:
    gated = GatedNode(tmp_path / "memory")
    yield gated
    gated.close()


@pytest.fixture
def planner(gated: GatedNode, robot: Robot) -> Robot:
    assert robot.client.wait_until_active(lambda: True, START_SEC)
    return robot


def test_a_deadline_is_kept_while_the_inference_threads_stand_still(
    gated: GatedNode, planner: Robot
) -> None:
    gated.hold()
    response = planner.call("retrieve", instruction="x", timeout_sec=0.1)
    assert response.status.code == Status.DEADLINE_EXCEEDED
    assert "no answer within 0.1 s" in response.message
    gated.release()
    assert planner.call("retrieve", instruction="x", timeout_sec=30.0).success


def test_a_question_does_not_wait_for_a_picture(gated: GatedNode, planner: Robot) -> None:
    """Nor does a call that needs no model."""
    stored = planner.call("remember", image=image_message(picture(1), 1), instruction="cup")
    gated.hold_one(gated.node.active_session().lanes.pictures)
    waits = planner.client.call_async("retrieve", image=image_message(picture(1), 1))
    wait_until(lambda: gated.node.active_session().lanes.waiting == 1, "a waiting request")
    assert planner.call("retrieve", instruction="cup", k=1).result.matches
    assert planner.call("get_entry", entry_id=stored.entry_id).success
    assert planner.call("get_stats").memory_size == 1
    assert planner.call("pin", entry_ids=[stored.entry_id], pinned=False).success
    assert planner.call("forget", entry_ids=[stored.entry_id]).success
    assert not waits.done()
    gated.release()
    wait_until(waits.done, "the answer to the picture")
    assert waits.result().success


def test_a_picture_does_not_wait_for_a_question(gated: GatedNode, planner: Robot) -> None:
    gated.hold_one(gated.node.active_session().lanes.words)
    stored = planner.call("remember", image=image_message(picture(1), 1), instruction="cup")
    assert stored.success, stored.message
    found = planner.call("retrieve", image=image_message(picture(1), 1), k=1).result
    assert found.matches[0].entry_id == stored.entry_id


def test_requests_beyond_the_limit_are_refused_and_the_others_are_answered(
    gated: GatedNode, planner: Robot
) -> None:
    gated.hold()
    futures = [planner.client.call_async("retrieve", instruction=f"{n}") for n in range(5)]
    wait_until(lambda: sum(future.done() for future in futures) == 2, "two refusals")
    refused = [future.result() for future in futures if future.done()]
    assert [response.status.code for response in refused] == [Status.BUSY, Status.BUSY]
    assert "3 requests are waiting" in refused[0].message
    gated.release()
    wait_until(lambda: all(future.done() for future in futures), "all answers")
    assert sum(future.result().success for future in futures) == 3


def test_callbacks_go_on_while_the_inference_threads_stand_still(
    gated: GatedNode, planner: Robot
) -> None:
    gated.hold()
    received = gated.node.counters.get("frames_received")
    planner.wait_until_heard()

    def frame_came() -> bool:
        planner.show(picture(1), 1)
        return gated.node.counters.get("frames_received") > received

    wait_until(frame_came, "a frame", period_sec=0.1)


def test_deactivating_answers_those_that_wait(gated: GatedNode, planner: Robot) -> None:
    gated.hold()
    waiting = planner.client.call_async("retrieve", instruction="x")
    wait_until(lambda: gated.node.active_session().lanes.waiting > 0, "a waiting request")
    gated.release()
    gated.node.trigger_deactivate()
    wait_until(waiting.done, "an answer")
    assert waiting.result().success or waiting.result().status.code == Status.NOT_ACTIVE


def test_who_accepts_a_stale_answer_gets_the_last_one_at_the_deadline(
    gated: GatedNode, planner: Robot
) -> None:
    """Marked as such, with the age of its frame as of now; others get the reason."""
    planner.call("remember", image=image_message(picture(1), 1), instruction="cup")
    planner.wait_until_heard()

    def seen() -> bool:
        planner.show(picture(1), SEEN_NS)
        return bool(planner.call("retrieve", use_newest_frame=True).success)

    wait_until(seen, "a frame", period_sec=0.1)
    question = {"use_newest_frame": True, "k": 1, "accept_stale": True}
    fresh = planner.call("retrieve", **question).result
    gated.hold()
    late = planner.call("retrieve", timeout_sec=0.2, **question)
    assert late.success, late.message
    assert (fresh.stale, late.result.stale) == (False, True)
    assert late.result.times == fresh.times, "another answer"
    assert late.result.header == fresh.header
    assert late.result.image_age_sec >= fresh.image_age_sec
    for other in ({**question, "k": 2}, {**question, "accept_stale": False}):
        refused = planner.call("retrieve", timeout_sec=0.2, **other)
        assert refused.status.code == Status.DEADLINE_EXCEEDED


def answered_before(planner: Robot) -> tuple[dict[str, Any], MatchArray]:
    """Return a question that accepts stale answers, and the answer that it had."""
    planner.call("remember", image=image_message(picture(1), 1), instruction="cup")
    question = {"instruction": "cup", "accept_stale": True}
    return question, planner.call("retrieve", **question).result


def test_who_accepts_a_stale_answer_gets_the_last_one_when_too_many_wait(
    gated: GatedNode, planner: Robot
) -> None:
    """Instead of BUSY."""
    question, fresh = answered_before(planner)
    gated.hold()
    waiting = [planner.client.call_async("retrieve", instruction=f"{n}") for n in range(3)]
    wait_until(
        lambda: (
            planner.call("retrieve", instruction="x", timeout_sec=0.05).status.code == Status.BUSY
        ),
        "a full queue",
    )
    answer = planner.call("retrieve", **question)
    assert answer.success, answer.message
    assert answer.result.stale
    assert answer.result.times == fresh.times, "another answer"
    gated.release()
    wait_until(lambda: all(future.done() for future in waiting), "the others")


def test_a_deadline_that_cannot_be_met_is_answered_at_once(
    gated: GatedNode, planner: Robot
) -> None:
    """By how long those before it take: nobody waits for an answer that comes too late."""
    forecast = gated.node.active_session().forecast
    gated.hold()
    waiting = planner.client.call_async("retrieve", instruction="first")
    wait_until(lambda: gated.node.active_session().lanes.waiting == 1, "a waiting request")
    forecast.note("Retrieve_Request", HOURS_SEC, time.monotonic())
    refused = planner.call("retrieve", instruction="second", timeout_sec=HOURS_SEC)
    assert refused.status.code == Status.DEADLINE_EXCEEDED
    for words in ("timeout_sec", "2 others run before", f"after about {2 * HOURS_SEC:.3g} s"):
        assert words in refused.message
    assert gated.node.active_session().lanes.waiting == 1, "it was not queued"
    gated.release()
    wait_until(waiting.done, "the first answer")
    assert waiting.result().success


def test_who_accepts_a_stale_answer_gets_it_at_once_where_the_deadline_cannot_be_met(
    gated: GatedNode, planner: Robot
) -> None:
    question, fresh = answered_before(planner)
    gated.hold()
    for _ in range(32):  # as many as it goes by
        gated.node.active_session().forecast.note(
            "Retrieve_Request", 2 * HOURS_SEC, time.monotonic()
        )
    answer = planner.call("retrieve", timeout_sec=HOURS_SEC, **question)
    assert answer.success, answer.message
    assert answer.result.stale
    assert answer.result.times == fresh.times


def test_a_request_with_an_image_of_its_own_that_accepts_a_stale_answer_is_wrong_and_not_late(
    gated: GatedNode, planner: Robot
) -> None:
    """Whoever waits for its deadline, or cannot meet it, is told what to change."""
    gated.hold()
    refused = planner.call(
        "retrieve", image=image_message(picture(1), 1), accept_stale=True, timeout_sec=0.1
    )
    assert refused.status.code == Status.INVALID_REQUEST
    assert "accept_stale" in refused.message


def test_a_node_that_was_slow_once_tries_again_after_a_while(
    gated: GatedNode, planner: Robot
) -> None:
    """What it learned holds for ten seconds; else it would refuse for ever."""
    forecast = gated.node.active_session().forecast
    forecast.note("Retrieve_Request", HOURS_SEC, time.monotonic() - 11.0)
    assert planner.call("retrieve", instruction="x", timeout_sec=30.0).success


def test_a_request_whose_deadline_passed_leaves_its_place_to_another(
    gated: GatedNode, planner: Robot
) -> None:
    """Who does not wait any more does not fill the queue."""
    gated.hold()
    for n in range(6):  # twice as many as may wait
        late = planner.call("retrieve", instruction=f"{n}", timeout_sec=0.05)
        assert late.status.code == Status.DEADLINE_EXCEEDED
    assert gated.node.active_session().lanes.waiting == 0


def test_a_pair_is_refused_and_not_waited_for_while_the_index_is_overdue(
    gated: GatedNode, planner: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building it may take minutes, in which the inference threads have others to answer."""
    memory = gated.node.active_session().memory
    monkeypatch.setattr(memory, "overdue", lambda: "70000 entries are for pq, not exact")
    refused = planner.call("remember", image=image_message(picture(1), 1), instruction="cup")
    assert refused.status.code == Status.BUSY
    assert "70000 entries are for pq" in refused.message
    assert planner.call("retrieve", instruction="cup").success
    monkeypatch.undo()
    assert planner.call("remember", image=image_message(picture(1), 1), instruction="cup").success


def test_the_time_that_a_request_waited_is_part_of_its_total(
    gated: GatedNode, planner: Robot
) -> None:
    lanes = gated.node.active_session().lanes
    gated.hold_one(lanes.words)
    waiting = planner.client.call_async("retrieve", instruction="x")
    wait_until(lambda: lanes.waiting == 1, "a waiting request")
    later = planner.call("retrieve", instruction="y", timeout_sec=0.1)
    assert later.status.code == Status.DEADLINE_EXCEEDED, "so the first has waited as long"
    gated.release()
    wait_until(waiting.done, "the answer")
    times = waiting.result().result.times
    assert times.total_sec >= times.queue_sec > 0


def test_the_newest_frame_is_not_embedded_for_a_request_whose_deadline_has_passed(
    gated: GatedNode, planner: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as while it was decoded."""
    session = gated.node.active_session()
    read, decoded, embedded = session.reader.image, threading.Event(), []

    def read_slowly(frame: Frame) -> RgbImage:
        assert decoded.wait(WAIT_SEC)
        return read(frame)

    monkeypatch.setattr(session.reader, "image", read_slowly)
    monkeypatch.setattr(session.reader, "scene", embedded.append)
    gated.node.newest_frame.put(image_message(picture(1), SEEN_NS), SEEN_NS)
    late = planner.call("retrieve", use_newest_frame=True, timeout_sec=0.2)
    assert late.status.code == Status.DEADLINE_EXCEEDED
    decoded.set()
    wait_until(lambda: session.lanes.pictures.turn == 0, "the end of its turn")
    assert embedded == []


def test_an_answer_that_is_ready_after_its_deadline_is_counted_as_failed_alone(
    gated: GatedNode, planner: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says nothing of how long answers take; who accepts a stale one gets it next time."""
    make, go_on = conversions.to_match_array, threading.Event()

    def make_slowly(*arguments: Any) -> MatchArray:
        assert go_on.wait(WAIT_SEC)
        return make(*arguments)

    monkeypatch.setattr(conversions, "to_match_array", make_slowly)
    question = {"instruction": "cup", "accept_stale": True}
    late = planner.call("retrieve", timeout_sec=0.2, **question)
    assert late.status.code == Status.DEADLINE_EXCEEDED
    go_on.set()
    stats = planner.call("get_stats")  # runs after it
    assert (stats.queries_failed, stats.queries_answered) == (1, 0)
    assert math.isnan(gated.node.pace.percentiles(50)[0])
    gated.hold()
    stale = planner.call("retrieve", timeout_sec=0.2, **question)
    assert stale.success, stale.message
    assert gated.node.counters.get("queries_answered") == 1
    assert math.isnan(gated.node.pace.percentiles(50)[0])
