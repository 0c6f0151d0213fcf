"""A client of the node's services for programs that are not nodes themselves."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.ros.requests import make_request, unknown_name
from vla_retrieval.ros.services import SERVICE_QOS
from vla_retrieval.ros.spinning import new_spinner
from vla_retrieval_msgs.srv import Forget, GetEntry, GetStats, Pin, Remember, Retrieve

_log = logging.getLogger(__name__)

_TRY_SEC = 1.0
_KINDS = {
    "retrieve": Retrieve,
    "remember": Remember,
    "forget": Forget,
    "pin": Pin,
    "get_entry": GetEntry,
    "get_stats": GetStats,
}


class ClientClosedError(RetrievalError):
    """The client was closed before it was asked, or before the answer came."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the client is closed: close it later, or make another one")


class RetrievalClient:
    """Calls the services of a node called ``retrieval`` and waits for the answers.

    It has a context of its own and spins in a thread of its own, so it can be used from
    anywhere, beside other nodes of the process. Close it, or use it in a ``with`` statement.

    Attributes:
        node: For further subscriptions and publishers.
    """

    def __init__(
        self,
        namespace: str = "",
        name: str = "retrieval_client",
        *,
        executor: str = "single_threaded",
    ) -> None:
        """Connect to ``<namespace>/retrieval``.

        Args:
            namespace: Of the node.
            name: Of the client's own node.
            executor: Which of rclpy's executors spins it, as for the node: ``single_threaded``,
                ``events`` or ``auto``. By events answers come a little sooner; rclpy's
                ``EventsExecutor`` takes no guard conditions and no subscriptions whose callbacks
                want the message's info.

        Raises:
            InvalidInputError: If there can be no executor of that kind.
        """
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        try:
            self._spinner = new_spinner(executor, self._context)
        except InvalidInputError:
            rclpy.try_shutdown(context=self._context)
            raise
        self.node: Node = rclpy.create_node(name, context=self._context, namespace=namespace)
        self._clients = {
            service: self.node.create_client(kind, f"retrieval/{service}", qos_profile=SERVICE_QOS)
            for service, kind in _KINDS.items()
        }
        self._has_met = False
        self._closed = False
        self._waiting: set[threading.Event] = set()
        # Protects the two above: who begins to wait while another thread closes is woken, too.
        self._lock = threading.Lock()
        self._spinner.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="client", daemon=True)
        self._thread.start()

    def __enter__(self) -> RetrievalClient:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Leave the graph; a thread that waits for an answer gets a ClientClosedError."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
        # Not by the executor's shutdown, which destroys what wakes the thread that spins: where
        # that is about to wait, it waits for ever.
        self._spinner.stop()
        self._thread.join()
        self._spinner.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
        for event in waiting:
            event.set()

    def between_callbacks(self, change: Callable[[], None], within_sec: float = 60.0) -> None:
        """Run a function in the thread that spins, and return when it has run.

        Publishers and subscriptions of ``node`` have to be destroyed like this: where that happens
        in another thread while this one waits for messages, its executor fails now and then
        (rclpy's InvalidHandle), and nothing is received any more.

        Args:
            change: Is called once.
            within_sec: Longest wait.

        Raises:
            ClientClosedError: If the client was closed.
            TimeoutError: If it did not run in time.
            Exception: What it raised.
        """
        done = threading.Event()
        outcome: list[Exception | None] = []

        def run() -> None:
            error = None
            try:
                change()
            except Exception as caught:  # for who waits for it
                error = caught
            outcome.append(error)
            # What was destroyed is let go of before the next task runs.
            self._spinner.executor.create_task(done.set)

        self._spinner.executor.create_task(run)
        self._wait(done, within_sec)
        if not outcome:
            raise TimeoutError(f"the client's thread was busy for {within_sec:g} s")
        if outcome[0] is not None:
            raise outcome[0]

    def wait_until_active(self, alive: Callable[[], bool], timeout_sec: float) -> bool:
        """Return whether the node became active in time.

        Args:
            alive: Whether there is still a node to wait for.
            timeout_sec: Longest wait.
        """
        end = time.monotonic() + timeout_sec
        while alive() and time.monotonic() < end:
            # A node that was killed stays in the graph for a while and never answers, so a call
            # is tried again instead of being waited for.
            with contextlib.suppress(TimeoutError):
                if self._get_stats(_TRY_SEC).success:
                    self._has_met = True
                    return True
        return False

    def call(self, service: str, within_sec: float = 60.0, **fields: Any) -> Any:
        """Call a service and return its response.

        Args:
            service: ``retrieve``, ``remember``, ``forget``, ``pin``, ``get_entry`` or
                ``get_stats``.
            within_sec: Longest wait.
            **fields: Of the request.

        Raises:
            InvalidInputError: If there is no such service or field, or a value does not fit.
            ClientClosedError: If the client was closed.
            TimeoutError: If no answer came in time.
        """
        request = _request(service, fields)
        try:
            self._meet(within_sec)
        except TimeoutError:
            raise self._silence(service, within_sec) from None
        return self._wait_for(self._send(service, request, within_sec), service, within_sec)

    def _meet(self, within_sec: float) -> None:
        """Get one answer, whichever, before the first call.

        A client discovers a service before the service discovers the client, and an answer that
        is sent in between is lost, now and then. Asking for the statistics again
        does no harm, and since its client was made last, the node knows the others by then too.
        """
        end = time.monotonic() + within_sec
        while not self._has_met:
            left_sec = end - time.monotonic()
            try:
                self._get_stats(min(_TRY_SEC, left_sec))
                self._has_met = True
            except TimeoutError:
                if left_sec <= _TRY_SEC:
                    raise

    def _get_stats(self, within_sec: float) -> Any:
        request = GetStats.Request()
        return self._wait_for(self._send("get_stats", request, within_sec), "get_stats", within_sec)

    def _wait_for(self, future: Future[Any], service: str, within_sec: float) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        self._wait(done, within_sec)
        if not future.done():
            future.cancel()  # else the client keeps it until an answer comes
            raise self._silence(service, within_sec)
        return future.result()

    def call_async(self, service: str, within_sec: float = 60.0, **fields: Any) -> Future[Any]:
        """Call a service and return a future of its response.

        Args:
            service: As for `call`.
            within_sec: Longest wait for the service to be there.
            **fields: Of the request.

        Raises:
            InvalidInputError: If there is no such service or field, or a value does not fit.
            ClientClosedError: If the client was closed.
            TimeoutError: If there is no such service in time.
        """
        return self._send(service, _request(service, fields), within_sec)

    def _send(self, service: str, request: Any, within_sec: float) -> Future[Any]:
        client = self._clients[service]
        try:
            # A request that is sent before the service is discovered is lost, not queued.
            if not client.wait_for_service(within_sec):
                raise self._silence(service, within_sec)
            return client.call_async(request)
        except InvalidHandle:
            raise ClientClosedError from None

    def _silence(self, service: str, within_sec: float) -> TimeoutError:
        """Return the error about a service that is not there, or does not answer."""
        name = self._clients[service].srv_name
        try:
            name = self.node.resolve_service_name(name)
            is_there = self._clients[service].service_is_ready()
        except InvalidHandle:  # closed meanwhile
            is_there = False
        if is_there:
            return TimeoutError(
                f"no answer from {name} within {within_sec:g} s: is the node busy, or was it "
                "killed a moment ago?"
            )
        return TimeoutError(
            f"no service {name} within {within_sec:g} s: is the node running, in this namespace "
            f"and in ROS domain {self._context.get_domain_id()}?"
        )

    def _wait(self, done: threading.Event, within_sec: float) -> None:
        """Return when something is done, or not in time.

        Raises:
            ClientClosedError: If the client is closed, or was meanwhile.
        """
        with self._lock:
            if self._closed:
                raise ClientClosedError
            self._waiting.add(done)
        done.wait(within_sec)
        with self._lock:
            self._waiting.discard(done)
            if self._closed:
                raise ClientClosedError

    def _spin(self) -> None:
        while not self._spinner.stopped:
            try:
                self._spinner.spin()
            except ExternalShutdownException:
                return
            except Exception:  # of a subscription's, for example; answers need this thread
                if not self._context.ok():
                    return
                _log.exception("a callback failed, and the client goes on")


def _request(service: str, fields: dict[str, Any]) -> Any:
    """Return a checked request of a service."""
    if service not in _KINDS:
        raise unknown_name("service", service, list(_KINDS))
    return make_request(_KINDS[service].Request, fields)
