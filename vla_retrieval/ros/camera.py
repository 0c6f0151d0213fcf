"""The subscription to the camera, and what goes wrong with it before a frame is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import (
    QoSMessageLostInfo,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.ros.freshness import ahead_sec
from vla_retrieval.ros.watch import CURE, AbsenceWatch, FrameWatch

if TYPE_CHECKING:
    from vla_retrieval.ros.frames import Frame, ImageMessage
    from vla_retrieval.ros.node import RetrievalNode

_MOST_NAMED = 5
_AHEAD_SEC = 0.5  # two machines kept together by NTP differ by less


class Camera:
    """Listens to the image topic, and judges whether it is heard.

    Attributes:
        topic: Resolved name of the image topic.
        lost: Frames that the middleware knows to be lost since the subscription.
    """

    def __init__(
        self,
        node: RetrievalNode,
        on_frame: Callable[[ImageMessage], None],
        group: CallbackGroup,
    ) -> None:
        """Subscribe as the node's parameters say."""
        settings = node.settings
        raw = settings.image_transport == "raw"
        name = "image" if raw else "image/compressed"
        self._name = name
        self.topic = node.resolve_topic_name(name)
        self.lost = 0
        self._lost_told = 0
        self._kind = "sensor_msgs/msg/Image" if raw else "sensor_msgs/msg/CompressedImage"
        self._reliable = settings.image_reliability == "reliable"
        self._watch = FrameWatch(self.topic, settings.frame_timeout_sec, time.monotonic())
        self._absence = AbsenceWatch(settings.frame_timeout_sec, time.monotonic())
        self._node = node
        newest_only = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=(
                ReliabilityPolicy.RELIABLE if self._reliable else ReliabilityPolicy.BEST_EFFORT
            ),
            durability=DurabilityPolicy.VOLATILE,
        )
        kind = Image if raw else CompressedImage
        try:
            self._subscription = self._subscribe(
                kind, name, on_frame, newest_only, group, self._on_lost
            )
        except UnsupportedEventTypeError:  # not every middleware counts what it loses
            self._subscription = self._subscribe(kind, name, on_frame, newest_only, group, None)

    def _subscribe(
        self,
        kind: Any,
        name: str,
        on_frame: Callable[[ImageMessage], None],
        qos: QoSProfile,
        group: CallbackGroup,
        on_lost: Callable[[QoSMessageLostInfo], None] | None,
    ) -> Subscription[Any]:
        return self._node.create_subscription(
            kind, name, on_frame, qos, callback_group=group,
            # A QoS that does not fit is read off the graph, which also says when it is gone again.
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=on_lost, use_default_callbacks=False
            ),
        )  # fmt: skip

    @property
    def publishers(self) -> int:
        """How many publishers are matched."""
        return self._subscription.get_publisher_count()

    def close(self) -> None:
        """Stop to listen."""
        self._node.destroy_subscription(self._subscription)

    def warnings(self, frames: int, newest: Frame | None) -> list[str]:
        """Return what a person should know, with the next step; mostly nothing.

        Args:
            frames: Frames received since the node was activated.
            newest: The newest of them, or None.
        """
        now_sec = time.monotonic()
        offered = self._node.get_publishers_info_by_topic(self.topic)
        found = [text for text in map(self._why_not_heard, offered) if text]
        absent_sec = self._absence.judge(len(offered), now_sec)
        settings = self._node.settings
        wanted = settings.query_mode != "never" or settings.remember_mode != "never"
        if absent_sec and wanted:
            found.append(self._nobody(frames, absent_sec))
        if newest is not None and ahead_sec(newest) > _AHEAD_SEC:
            found.append(
                f"the newest frame of {self.topic} is stamped {ahead_sec(newest):.1f} s ahead of "
                "this node's clock, so that its age is not known. Synchronise the clocks of the "
                "two machines; where a bag is played, set use_sim_time for both or for neither."
            )
        silence = self._watch.judge(frames, self.publishers, now_sec)
        if silence is not None:
            found.append(silence.text)
        if self.lost > self._lost_told:
            found.append(
                f"{self.lost - self._lost_told} frames of {self.topic} were lost on their way "
                f"since the last report. {CURE}"
            )
            self._lost_told = self.lost
        return found

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self.lost = event.total_count

    def _why_not_heard(self, publisher: TopicEndpointInfo) -> str:
        """Return why a publisher of the topic cannot be heard, or nothing."""
        name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
        if publisher.topic_type != self._kind:
            return (
                f"{name} publishes {publisher.topic_type} on {self.topic}, and this node reads "
                f"{self._kind} there: look at image_transport and at the topic's name."
            )
        best_effort = publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        if self._reliable and best_effort:
            return (
                f"{name} publishes {self.topic} with another QoS (reliability: best effort) than "
                "this node asks for (reliable), and is not heard. Set image_reliability to "
                "best_effort, which reads from any publisher, or let the camera publish reliably."
            )
        return ""

    def _nobody(self, frames: int, absent_sec: float) -> str:
        """Return that nobody publishes, with what else is there."""
        own = f"{self._node.get_fully_qualified_name()}/"
        others = sorted(
            topic
            for topic, kinds in self._node.get_topic_names_and_types()
            if self._kind in kinds and topic != self.topic and not topic.startswith(own)
            and self._node.count_publishers(topic)
        )  # fmt: skip
        since = "no images yet" if frames == 0 else "no more images"
        return (
            f"{since}: 0 publishers on {self.topic} ({self._kind}) for {absent_sec:.0f} s. Start "
            "the camera, or look at the topic's name (image_topic of the launch file, or a "
            f"remapping of {self._name}) and at image_transport."
        ) + (f" The same type is published on {', '.join(others[:_MOST_NAMED])}." if others else "")
