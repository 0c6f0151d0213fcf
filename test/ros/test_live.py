"""Episodes that a node begins itself."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from unittest.mock import MagicMock

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from std_msgs.msg import String

from vla_retrieval.ros import live


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
