"""Parameters and states of a running node, set from outside."""

from __future__ import annotations

from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter, parameter_value_to_python

from .harness import START_SEC, Robot, ask, wait_until


class Manager:
    """Changes parameters and states as a lifecycle manager does."""

    def __init__(self, robot: Robot) -> None:
        node = robot.client.node
        self._change = node.create_client(ChangeState, "retrieval/change_state")
        self._state = node.create_client(GetState, "retrieval/get_state")
        self._set = node.create_client(SetParameters, "retrieval/set_parameters")
        self._get = node.create_client(GetParameters, "retrieval/get_parameters")
        self._all_or_none = node.create_client(
            SetParametersAtomically, "retrieval/set_parameters_atomically"
        )
        for client in (self._change, self._state, self._set, self._get, self._all_or_none):
            assert client.wait_for_service(START_SEC), client.srv_name

    def state(self) -> str:
        """Return the node's state."""
        return str(ask(self._state, GetState.Request()).current_state.label)

    def try_to(self, transition: str) -> bool:
        """Ask for a transition, ``configure`` for example; return whether it succeeded."""
        self.state()  # an answer that comes before the client is discovered is lost
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        future = self._change.call_async(ChangeState.Request(transition=Transition(id=number)))
        wait_until(future.done, transition)
        return bool(future.result().success)

    def set(self, **values: Any) -> list[SetParametersResult]:
        """Set parameters one by one; return what was said to each."""
        request = SetParameters.Request(parameters=_messages(values))
        return list(ask(self._set, request).results)

    def set_all_or_none(self, **values: Any) -> SetParametersResult:
        """Set parameters together."""
        request = SetParametersAtomically.Request(parameters=_messages(values))
        return ask(self._all_or_none, request).result

    def get(self, *names: str) -> list[Any]:
        """Return the values of parameters."""
        values = ask(self._get, GetParameters.Request(names=list(names))).values
        return [parameter_value_to_python(value) for value in values]


def _messages(values: dict[str, Any]) -> list[Any]:
    return [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
