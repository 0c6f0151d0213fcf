"""The subscription to the camera, and what goes wrong with it before a frame is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import (
    QoSMessageLostInfo,
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.ros.freshness import ahead_sec
from vla_retrieval.ros.watch import CURE, FrameWatch

if TYPE_CHECKING:
    from vla_retrieval.ros.frames import Frame, ImageMessage
    from vla_retrieval.ros.node import RetrievalNode

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
        self.topic = node.resolve_topic_name(name)
        self.lost = 0
        self._lost_told = 0
        self._mismatch = ""
        self._watch = FrameWatch(self.topic, settings.frame_timeout_sec, time.monotonic())
        self._node = node
        reliable = settings.image_reliability == "reliable"
        newest_only = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
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
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_mismatch, message_lost=on_lost
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
            frames: Frames received so far.
            newest: The newest of them.
        """
        found = [self._mismatch] if self._mismatch else []
        if newest is not None and ahead_sec(newest) > _AHEAD_SEC:
            found.append(
                f"the newest frame of {self.topic} is stamped {ahead_sec(newest):.1f} s ahead of "
                "this node's clock, so that its age is not known. Synchronise the clocks of the "
                "two machines; where a bag is played, set use_sim_time for both or for neither."
            )
        silence = self._watch.judge(frames, self.publishers, time.monotonic())
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

    def _on_mismatch(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._mismatch = (
            f"{event.total_count} publisher(s) of {self.topic} offer another QoS "
            f"({policy}) than this node asks for, and are not heard. Set image_reliability to "
            "best_effort, which reads from any publisher, or let the camera publish reliably."
        )
        self._node.get_logger().warning(self._mismatch)
