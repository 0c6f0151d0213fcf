"""A running node's live parameters, as an evaluation needs them, and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rcl_interfaces.msg import Parameter as ParameterMessage
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future

from vla_retrieval.errors import RetrievalError

_WITHIN_SEC = 30.0


@contextmanager
def changed_parameters(node: Node, wanted: Mapping[str, Any]) -> Iterator[None]:
    """Set parameters of the node ``retrieval`` for the time of a block.

    Args:
        node: Somebody else spins it.
        wanted: Name to value.

    Raises:
        RetrievalError: If the node refuses a value.
        TimeoutError: If it does not answer.
    """
    client = AsyncParameterClient(node, "retrieval")
    if not client.wait_for_services(_WITHIN_SEC):
        raise TimeoutError(f"no parameters of a node called retrieval within {_WITHIN_SEC:g} s")
    names = list(wanted)
    before = _result(client.get_parameters(names)).values
    _set(client, [Parameter(name, value=value) for name, value in wanted.items()])
    try:
        yield
    finally:
        _set(
            client,
            [
                Parameter.from_parameter_msg(_message(name, value))
                for name, value in zip(names, before, strict=True)
            ],
        )


def _message(name: str, value: Any) -> Any:
    return ParameterMessage(name=name, value=value)


def _set(client: AsyncParameterClient, parameters: list[Parameter]) -> None:
    results = _result(client.set_parameters(parameters)).results
    for parameter, result in zip(parameters, results, strict=True):
        if not result.successful:
            raise RetrievalError(
                f"the node refused {parameter.name} = {parameter.value!r}: {result.reason}"
            )


def _result(future: Future[Any]) -> Any:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(_WITHIN_SEC):
        raise TimeoutError(f"the node did not answer about its parameters in {_WITHIN_SEC:g} s")
    return future.result()
