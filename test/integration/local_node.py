"""A node in this process, where a test can reach into it, in a context of its own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from vla_retrieval.ros.node import RetrievalNode
from vla_retrieval.ros.spinning import new_spinner

from .harness import WAIT_SEC


class LocalNode:
    """A node, spun by a thread of its own."""

    def __init__(self, memory_dir: Path, *, active: bool = True, **parameters: Any) -> None:
        """Start it, and activate it or not; the test double encodes unless another is named."""
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        values = {"model": "double", "memory_dir": str(memory_dir), **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        self.node = RetrievalNode(context=self._context, parameter_overrides=overrides)
        if active:
            assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        self._spinner = new_spinner(context=self._context)
        self._spinner.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spinner.spin)
        self._thread.start()

    def close(self) -> None:
        """Stop it."""
        self._spinner.stop()  # as in RetrievalClient.close
        self._thread.join(WAIT_SEC)
        self._spinner.executor.shutdown()
        self.node.close()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
