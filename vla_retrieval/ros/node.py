"""The lifecycle node: what exists in which state, and who is called when."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from vla_retrieval.encoders import free_device_memory
from vla_retrieval.errors import RetrievalError
from vla_retrieval.projection import Head
from vla_retrieval.ros import parameters
from vla_retrieval.ros.camera import Camera
from vla_retrieval.ros.diagnostics import make_diagnostics
from vla_retrieval.ros.disk import FIRST_PATIENCE_SEC, Errands, try_disk
from vla_retrieval.ros.frames import Frame, NewestFrame
from vla_retrieval.ros.freshness import image_age_sec
from vla_retrieval.ros.health import Health
from vla_retrieval.ros.live import LivePath
from vla_retrieval.ros.markers import no_markers
from vla_retrieval.ros.pace import Pace
from vla_retrieval.ros.parameters import Settings
from vla_retrieval.ros.reminder import Reminder
from vla_retrieval.ros.replies import NotActiveError
from vla_retrieval.ros.services import Services
from vla_retrieval.ros.session import Counters, Session
from vla_retrieval_msgs.msg import MatchArray

_log = logging.getLogger(__name__)

_WARN_AGAIN_SEC = 10.0
_WARN_AT_LEAST_SEC = 600.0
_REMIND_SEC = 60.0
_CHECK_MEMORY_SEC = 1.0
_NS_PER_SEC = 1_000_000_000


class RetrievalNode(LifecycleNode):
    """A robot's memory on the ROS graph.

    Unconfigured it has its parameters and services, which say NOT_ACTIVE. Configured it holds the
    encoder and the memory. Active it listens, publishes and answers. Where configuring or
    activating fails, and where the memory is lost while it is active, it goes back to unconfigured,
    with the reason in the log and in ``fault``, and can be configured again.

    Attributes:
        settings: The parameters' values; the live ones follow changes.
        newest_frame: The newest frame received since the node was activated.
        counters: Counts since the node was activated.
        pace: How long answers took since then.
        camera: The subscription to it while active, else None.
        session: What exists while configured, else None.
        is_active: Whether the node is in its active state.
        health: The last errors.
        fault: Why the node is not configured, where that is for a failure; else nothing.
    """

    def __init__(self, **options: Any) -> None:
        """Declare the parameters and offer the services; nothing heavy happens here.

        Raises:
            rclpy.exceptions.InvalidParameterValueException: If a parameter is out of its range.
            rclpy.exceptions.InvalidParameterTypeException: If it is of another type.
            InvalidInputError: If it is a path that cannot be one.
        """
        super().__init__("retrieval", **options)
        parameters.declare(self)
        # rclpy has no public name for what a node was started with.
        for line in parameters.not_declared(self._parameter_overrides, self._parameters):
            self.get_logger().warning(line)
        self._paths = parameters.paths_of(self)
        self.settings: Settings = parameters.read(self, self._paths)
        self.health = Health()
        self.fault = ""
        self.newest_frame = NewestFrame()
        self.counters = Counters()
        self.pace = Pace()
        self.session: Session | None = None
        self.is_active = False
        self._reminder = Reminder(_WARN_AGAIN_SEC, _WARN_AT_LEAST_SEC)
        self._next_head: Head | None = None  # from its check to its use, in one call
        self._errands = Errands()
        self._live: LivePath | None = None
        self._group = MutuallyExclusiveCallbackGroup()
        self.camera: Camera | None = None
        self._instructions: Subscription[Any] | None = None
        self._query_timer: Timer | None = None
        self._check_timer: Timer | None = None
        # A node is checked and diagnosed also while simulated time stands still.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._on_parameters_set)
        self.match_publisher = self.create_lifecycle_publisher(MatchArray, "~/matches", 10)
        self.sheet_publisher = self.create_lifecycle_publisher(Image, "~/contact_sheet", 1)
        self.marker_publisher = self.create_lifecycle_publisher(MarkerArray, "~/markers", 1)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = self.create_timer(
            self.settings.diagnostics_period_sec, self._on_diagnostics,
            callback_group=self._group, clock=self._steady_clock,
        )  # fmt: skip
        Services(self)

    @property
    def image_topic(self) -> str:
        """Resolved name of the image topic."""
        raw = self.settings.image_transport == "raw"
        return self.resolve_topic_name("image" if raw else "image/compressed")

    def image_age_sec(self, header: Header | None, frame: Frame | None) -> float:
        """Return how old a query image is now; see `freshness.image_age_sec`."""
        return image_age_sec(header, frame, self.now_ns, simulated=self.is_simulated)

    @property
    def now_ns(self) -> int:
        """The node's clock, nanoseconds since the epoch."""
        return int(self.get_clock().now().nanoseconds)

    @property
    def is_simulated(self) -> bool:
        """Whether that is simulated time."""
        return bool(self.get_clock().ros_time_is_active)  # type: ignore[attr-defined]

    def active_session(self) -> Session:
        """Return the session of an active node.

        Raises:
            NotActiveError: If the node is in another state.
        """
        if self.session is None or not self.is_active:
            raise NotActiveError(
                f"the node {self.get_fully_qualified_name()} is not active: configure and activate "
                "it (ros2 lifecycle set ... configure, then activate), or start it with "
                "autostart:=true"
            )
        return self.session

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the encoder and open the memory; a clear reason is logged where that fails."""
        configured = self._configure()
        if configured != TransitionCallbackReturn.SUCCESS:
            free_device_memory()  # here, where no error holds what was loaded any more
            return configured
        self.fault = ""
        self._check_timer = self.create_timer(
            _CHECK_MEMORY_SEC, self._on_check,
            callback_group=self._group, clock=self._steady_clock,
        )  # fmt: skip
        return configured

    def _configure(self) -> TransitionCallbackReturn:
        try:
            self.settings = parameters.read(self, self._paths)
            directory = self.settings.memory_path
            self.get_logger().info(f"loading {self.settings.model}; the memory is {directory}")
            self._errands.run(f"open {directory}", lambda: try_disk(directory), FIRST_PATIENCE_SEC)
            self.session = Session(self.settings, self.health)
        except RetrievalError as error:
            self._fail(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would swallow it, and the reason with it
            _log.exception("cannot configure")
            self._fail(f"cannot configure: {error!r}. The log says more.")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to listen, to publish and to answer; a clear reason is logged where that fails."""
        if self.session is None:
            self.get_logger().error("cannot activate: configure the node first")
            return TransitionCallbackReturn.FAILURE
        self.counters.reset()
        self.pace.reset()
        self._live = LivePath(self, self.session)
        try:
            self._listen(self._live)
        except Exception as error:  # rclpy would swallow it, and the reason with it
            if self.context.ok():  # else a signal ended the node meanwhile
                _log.exception("cannot activate")
                self._fail(
                    f"cannot activate: {error!r}. Look at the names of the topics (remappings of "
                    "image and instruction), and at the permissions if security is on."
                )
            return TransitionCallbackReturn.ERROR
        self.is_active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to listen, to publish and to answer; the memory stays open.

        With a fault, the transition ends in error processing: there is no other way there.
        """
        self._fall_silent()
        stopped = super().on_deactivate(state)
        return TransitionCallbackReturn.ERROR if self.fault else stopped

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the memory, let the encoder go, and give back what it took of the GPU."""
        self.close()
        free_device_memory()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the memory and let the encoder go, from any state."""
        if self.is_active:
            self._fall_silent()
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a failure, with the memory closed."""
        try:
            self.on_cleanup(state)
        except Exception:  # a disk that is gone: then nothing is left to be closed
            _log.exception("cannot close what was open")
        return TransitionCallbackReturn.SUCCESS

    def note_defect(self, error: Exception) -> None:
        """Tell of a callback that failed, with its stack trace in the log."""
        _log.error("a callback failed, and the node goes on", exc_info=error)
        self.health.note_error(f"a callback failed: {error!r}. The log says more.")

    def close(self) -> None:
        """Finish the job in hand and close the memory. May be called twice."""
        self._stop_listening()
        if self._check_timer is not None:
            self.destroy_timer(self._check_timer)
        self._check_timer = None
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def _listen(self, live: LivePath) -> None:
        group = self._group
        self.camera = Camera(self, live.on_frame, group)
        self._instructions = self.create_subscription(
            String, "instruction", live.on_instruction, 10, callback_group=group
        )
        self._query_timer = self.create_timer(
            1.0 / self.settings.query_rate_hz, live.on_timer, callback_group=group
        )

    def _fall_silent(self) -> None:
        """Stop to listen, and take the markers away that were published last.

        A viewer would go on showing the matches of a node that says nothing any more.
        """
        frame = self.newest_frame.get()
        self._stop_listening()
        self.marker_publisher.publish(no_markers(frame.header.frame_id if frame else ""))

    def _stop_listening(self) -> None:
        self.is_active = False
        if self._live is not None:
            self._live.end()
        self._live = None
        if self.camera is not None:
            self.camera.close()
        if self._instructions is not None:
            self.destroy_subscription(self._instructions)
        self.camera = self._instructions = None
        if self._query_timer is not None:
            self.destroy_timer(self._query_timer)
        self._query_timer = None
        self.newest_frame.clear()  # what a camera saw long ago is no answer in the next activation

    def _fail(self, reason: str) -> None:
        self.fault = reason
        self.health.note_error(reason)
        self.get_logger().error(reason)

    def _on_check(self) -> None:
        lost = self.session.disk.latest.lost if self.session is not None else ""
        if lost:
            self._fail(f"the memory is lost: {lost} Then configure and activate this node again.")
            if self.is_active:
                self.trigger_deactivate()
            else:
                self.trigger_cleanup()

    def _on_diagnostics(self) -> None:
        frames = self.counters.get("frames_received")
        newest = self.newest_frame.get()
        warnings = self.camera.warnings(frames, newest) if self.camera is not None else []
        warning = " ".join(warnings)
        if self._reminder.is_due(warning, time.monotonic()):
            self.get_logger().warning(warning)
        diagnostics = make_diagnostics(self, warnings)
        for status in diagnostics.status[1:]:
            if status.level != DiagnosticStatus.OK:
                self.get_logger().warning(
                    f"memory: {status.message}", throttle_duration_sec=_REMIND_SEC
                )
        try:
            self._diagnostics_publisher.publish(diagnostics)
        except Exception:
            if self.context.ok():  # else a signal ended the node meanwhile
                raise

    def _on_set_parameters(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        session = self.session
        if session is not None:
            answer = parameters.refuse_unless_live(changes)
            if not answer.successful:
                return answer
        if not any(change.name in parameters.PATHS for change in changes):
            return SetParametersResult(successful=True)

        def look() -> SetParametersResult:
            return self._look_at_paths(changes, session)

        try:
            return self._errands.run("look at the path that was given", look)
        except RetrievalError as error:
            return SetParametersResult(successful=False, reason=str(error))

    def _look_at_paths(
        self, changes: list[Parameter[Any]], session: Session | None
    ) -> SetParametersResult:
        """Say whether the new paths may be used, and read the new head, where there is one."""
        answer = parameters.check_paths(changes, self._paths)
        head = next((change for change in changes if change.name == "head"), None)
        if answer.successful and head is not None and session is not None:
            path = self._paths.resolve("head", head.value)
            self._next_head = session.load_head(Path(path) if path else None)
        return answer

    def _on_parameters_set(self, changes: list[Parameter[Any]]) -> None:
        names = {change.name for change in changes}
        self.settings = parameters.read_again(self, self.settings)
        if "diagnostics_period_sec" in names:
            _set_period(self._diagnostics_timer, self.settings.diagnostics_period_sec)
        if "query_rate_hz" in names and self._query_timer is not None:
            _set_period(self._query_timer, 1.0 / self.settings.query_rate_hz)
        if self.session is not None and "head" in names:
            try:
                self.session.memory.use_head(self._next_head)
            except RetrievalError as error:
                self.health.note_error(error)
                self.get_logger().error(f"the head is not changed: {error}")


def _set_period(timer: Timer, period_sec: float) -> None:
    timer.timer_period_ns = int(period_sec * _NS_PER_SEC)
    timer.reset()  # else the new period begins when the old one is over, in an hour perhaps
