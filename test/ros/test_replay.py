"""Filling a node and hearing it: nobody waits for one that ended, or reads more than is needed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rclpy.task import Future
from std_msgs.msg import Header

from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.ros import replay
from vla_retrieval.ros.answers import Answers
from vla_retrieval.ros.playing import Showing
from vla_retrieval_msgs.msg import MatchArray

IMAGE = SimpleNamespace(
    header=SimpleNamespace(frame_id="camera"), height=1, width=1, encoding="mono8", is_bigendian=0,
    step=1, data=np.zeros(1, np.uint8),
)  # fmt: skip
FRAME = Frame(
    "q", "bag", "/i", 1, 1, "camera", "go", "bag-1", 0, lambda: np.zeros((1, 1, 3), np.uint8),
    lambda: IMAGE,
)  # fmt: skip


def ignore(doing: str, done: int, total: int) -> None:
    pass


def test_filling_a_node_that_ended_meanwhile_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_WITHIN_SEC", 0.01)
    client: Any = SimpleNamespace(
        call=lambda *_: SimpleNamespace(memory_size=0), call_async=lambda *_, **__: Future()
    )
    with pytest.raises(TimeoutError, match="did not remember a frame"):
        replay.fill(client, [FRAME] * 20, ignore)


def test_one_image_of_each_topic_tells_how_the_node_has_to_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []

    def frame(topic: str) -> Frame:
        def message() -> Any:
            read.append(topic)
            return IMAGE

        return replace(FRAME, topic=topic, message=message)

    class Parameters:
        def __init__(self, *_: object) -> None:
            pass

        def get(self, names: list[str]) -> dict[str, str]:
            return dict.fromkeys(names, "raw")

    monkeypatch.setattr(replay, "RemoteParameters", Parameters)
    client: Any = SimpleNamespace(node=None)
    player: Any = None
    replayed = replay.Replay(client, {}, ExperimentSettings(), player)
    replayed._check_kind([frame(topic) for topic in ("/left", "/right") * 50])
    assert sorted(read) == ["/left", "/right"]


def test_an_answer_that_outlives_its_node_is_kept_and_nothing_more_is_waited_for() -> None:
    """What is raised where answers are heard would end the thread, and all others with it."""

    def gone(*_: object, **__: object) -> None:
        raise TimeoutError("no service")

    client: Any = SimpleNamespace(call_async=gone)
    player: Any = SimpleNamespace(find=lambda *_: Showing(FRAME, 0.0))
    answers = Answers(client, {}, 10, player)
    message = MatchArray(header=Header(frame_id="camera"))
    message.query.instruction = FRAME.instruction
    answers.take(message)
    assert answers.answered == 1
    assert answers.wait_until_quiet(0.0)
