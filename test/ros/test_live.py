"""Episodes that a node begins itself, and frames that it counts."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from unittest.mock import MagicMock

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from vla_retrieval.errors import InvalidInputError, MemoryFullError
from vla_retrieval.ros import live
from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval.ros.frames import NewestFrame
from vla_retrieval.ros.parameters import Settings
from vla_retrieval.ros.session import COUNTS, Counters
from vla_retrieval.ros.worker import WorkerBusyError, WorkerStalledError

SECOND = 1_000_000_000


def begun(text: str) -> Any:
    """Return the instruction in force after the first one of a new activation."""
    path = live.LivePath(MagicMock(), MagicMock())
    path.on_instruction(String(data=text))
    return path._instruction


def test_episodes_of_two_activations_at_the_same_time_of_the_clock_are_different(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as two in one second, or two starts of a robot whose clock begins anew with each."""
    stopped = MagicMock()
    stopped.now.return_value = datetime(1970, 1, 1, tzinfo=timezone.utc)
    monkeypatch.setattr(live, "datetime", stopped)
    first, second = begun("take the cup"), begun("take the cup")
    assert first.episode_id.startswith("19700101T000000-")
    assert first.episode_id != second.episode_id


def test_frames_that_nobody_wanted_were_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are asked about from a live change on; of those that come then, one is too many."""
    monkeypatch.setattr(live.LivePath, "_ask", lambda *_: None)
    node, session = MagicMock(), MagicMock()
    node.newest_frame, node.counters = NewestFrame(), Counters()
    path = live.LivePath(node, session)
    for mode, frames in (("never", 3), ("frame", 2)):
        node.settings = Settings(query_mode=mode)
        for _ in range(frames):
            path.on_frame(Image())
    (look, *_), _ = session.lanes.pictures.submit.call_args
    look()
    assert node.counters.get("frames_skipped") == 1


def test_frames_of_an_earlier_activation_were_not_skipped(
    path: live.LivePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.LivePath, "_ask", lambda *_: None)
    path._node.settings = Settings(query_mode="frame")
    for number in range(3):
        path._node.newest_frame.put(Image(), number)
    path._node.newest_frame.clear()
    later = live.LivePath(path._node, path._session)
    later.on_frame(Image())
    (look, *_), _ = path._session.lanes.pictures.submit.call_args
    look()
    assert path._node.counters.get("frames_skipped") == 0


@pytest.fixture
def path() -> live.LivePath:
    """Return the live path of a node whose inference threads never come to what it submits."""
    node, session = MagicMock(), MagicMock()
    node.newest_frame, node.counters = NewestFrame(), Counters()
    session.reader.took_ahead_sec.return_value = 0.0
    return live.LivePath(node, session)


def test_a_look_that_waits_still_asks_when_a_frame_comes_that_is_only_to_be_remembered(
    path: live.LivePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer asks, frames are remembered, and one look does both."""
    asked: list[int] = []
    monkeypatch.setattr(live.LivePath, "_ask", lambda _, frame, *__: asked.append(frame.number))
    path._node.settings = Settings(query_mode="timer", remember_mode="interval")
    path.on_timer()
    path.on_frame(Image())
    (look, *_), _ = path._session.lanes.pictures.submit.call_args
    look()
    assert asked == [1]


@pytest.mark.parametrize(("reason", "failed"), [(WorkerStalledError, 1), (WorkerBusyError, 0)])
@pytest.mark.parametrize("waited", [False, True])
def test_a_look_that_is_given_up_failed_where_inference_is_stuck_and_not_where_it_is_busy(
    path: live.LivePath, reason: type[Exception], failed: int, waited: bool
) -> None:
    """At once, or after it waited."""
    submit = path._session.lanes.pictures.submit
    submit.side_effect = None if waited else reason("no")
    path._node.settings = Settings(query_mode="frame")
    path.on_frame(Image())
    if waited:
        (_, give_up, *_), _ = submit.call_args
        give_up(reason("no"))
    assert path._node.counters.get("queries_failed") == failed


def look_at_a_frame(path: live.LivePath) -> Any:
    """Let a frame come and be looked at; return how its look is given up."""
    path.on_instruction(String(data="take the cup"))
    path.on_frame(Image(header=Header(stamp=to_stamp(SECOND))))
    (look, give_up, *_), _ = path._session.lanes.pictures.submit.call_args
    look()
    return give_up


def counted(path: live.LivePath) -> dict[str, int]:
    """Return the counts that are not zero."""
    return {name: number for name in COUNTS if (number := path._node.counters.get(name))}


@pytest.fixture
def answering(path: live.LivePath, monkeypatch: pytest.MonkeyPatch) -> live.LivePath:
    """Return a live path that publishes matches, and is to remember each frame."""

    def answer(self: live.LivePath, _: object, __: object, look: Any) -> None:
        self._node.counters.add("queries_answered")
        look.answered = True

    monkeypatch.setattr(live.LivePath, "_ask", answer)
    path._node.settings = Settings(query_mode="frame", remember_mode="interval")
    return path


@pytest.mark.parametrize(
    "error",
    [
        MemoryFullError("all are pinned"),
        InvalidInputError("frame_id", "a short one", "another"),
        WorkerBusyError("the index is built anew"),
        ZeroDivisionError("a defect"),
    ],
)
def test_a_frame_that_was_answered_and_cannot_be_remembered_did_not_fail(
    answering: live.LivePath, error: Exception
) -> None:
    """That it is not remembered has a count of its own, and is in the diagnostics."""
    answering._session.remember.side_effect = error
    look_at_a_frame(answering)
    assert counted(answering) == {
        "frames_received": 1, "queries_answered": 1, "frames_not_remembered": 1,
    }  # fmt: skip
    (noted,) = answering._node.health.note_error.call_args.args
    assert str(error) in str(noted)


def test_a_frame_that_was_answered_and_hangs_while_it_is_remembered_did_not_fail(
    answering: live.LivePath,
) -> None:
    answering._session.remember.side_effect = WorkerStalledError("shut out")
    give_up = look_at_a_frame(answering)
    give_up(WorkerStalledError("it took too long"))
    assert counted(answering) == {
        "frames_received": 1, "queries_answered": 1, "frames_not_remembered": 1,
    }  # fmt: skip


def test_a_frame_that_is_only_to_be_remembered_and_is_no_image_is_rejected(
    path: live.LivePath,
) -> None:
    """As one that is asked about."""
    path._node.settings = Settings(query_mode="never", remember_mode="interval")
    path._session.reader.scene.side_effect = InvalidInputError("image.step", "192", "7")
    look_at_a_frame(path)
    assert counted(path) == {"frames_received": 1, "frames_rejected": 1}
