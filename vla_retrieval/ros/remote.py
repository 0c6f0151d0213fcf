"""Parameters of a running node, changed for a while from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future

from vla_retrieval.errors import InvalidInputError

_WAY_OUT_SEC = 1.0


class RemoteParameters:
    """Reads and writes the parameters of another node.

    Args:
        node: Spun by somebody else.
        remote: Name of the other node, relative to this one's namespace.
        within_sec: Longest wait for an answer.
    """

    def __init__(self, node: Node, remote: str, within_sec: float) -> None:
        self._client = AsyncParameterClient(node, remote)
        self._remote = remote
        self._within_sec = within_sec

    def get(self, names: list[str]) -> dict[str, Any]:
        """Return the values of parameters.

        Raises:
            TimeoutError: If no answer came in time.
        """
        if not self._client.wait_for_services(self._within_sec):
            raise TimeoutError(f"no parameter services of {self._remote}: is the node running?")
        values = self._wait(self._client.get_parameters(names), self._within_sec).values
        return {
            name: parameter_value_to_python(value)
            for name, value in zip(names, values, strict=True)
        }

    def set(self, values: Mapping[str, Any]) -> None:
        """Change parameters, all or none.

        Raises:
            InvalidInputError: If the node refuses one.
            TimeoutError: If no answer came in time.
        """
        self._set(values, self._within_sec)

    def _set(self, values: Mapping[str, Any], within_sec: float) -> None:
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        future = self._client.set_parameters_atomically(parameters)
        result = self._wait(future, within_sec).result
        if not result.successful:
            wanted = ", ".join(f"{name}={value}" for name, value in values.items())
            reason = result.reason.rstrip(".")
            raise InvalidInputError("parameters", f"that the node takes {wanted}", reason)

    @contextmanager
    def temporarily(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Change parameters in the block, and put the old values back.

        Where an error or Ctrl-C ends the block, a node that does not take them back soon is left to
        itself: it may be gone, and that is not what has to be told.
        """
        before = self.get(list(values))
        try:
            self.set(values)  # Ctrl-C may come when the node has taken them already
            yield
        except BaseException:
            with suppress(TimeoutError):
                self._set(before, _WAY_OUT_SEC)
            raise
        self.set(before)

    def _wait(self, future: Future[Any], within_sec: float) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(within_sec):
            raise TimeoutError(f"no answer from {self._remote} within {within_sec:g} s")
        return future.result()
