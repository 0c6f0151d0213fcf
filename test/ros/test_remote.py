"""Parameters of another node are changed for a while, and put back whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from vla_retrieval.ros.remote import RemoteParameters


class Interrupted(RemoteParameters):
    """Ctrl-C comes when the node has taken the first change and has not answered yet."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {"k": 3, "use_sim_time": False}
        self._within_sec = 60.0
        self._changes = 0

    def get(self, names: list[str]) -> dict[str, Any]:
        return {name: self.held[name] for name in names}

    def _set(self, values: Mapping[str, Any], within_sec: float) -> None:
        self.held |= values
        self._changes += 1
        if self._changes == 1:
            raise KeyboardInterrupt


def test_what_a_node_took_while_the_change_was_interrupted_is_put_back() -> None:
    remote = Interrupted()
    with pytest.raises(KeyboardInterrupt), remote.temporarily({"use_sim_time": True}):
        raise AssertionError("the block is not entered")
    assert remote.held == {"k": 3, "use_sim_time": False}
