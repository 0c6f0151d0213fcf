"""Episodes that a node begins itself, and frames that it counts."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from unittest.mock import MagicMock

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from sensor_msgs.msg import Image
from std_msgs.msg import String

from vla_retrieval.ros import live
from vla_retrieval.ros.frames import NewestFrame
from vla_retrieval.ros.parameters import Settings
from vla_retrieval.ros.session import Counters


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
