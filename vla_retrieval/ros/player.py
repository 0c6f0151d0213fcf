"""Plays a rosbag into the graph where ``ros2 bag`` is not installed.

Messages go out as the bytes that lie in the bag, in the bag's own time. Bags are read as an
evaluation reads them: of a damaged one, all that can be read is played.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bags import Bag

_NS_PER_SEC = 1_000_000_000
_LOOK_AGAIN_SEC = 0.02
_ADVISED_AFTER_SEC = 5.0
_ADVISED_AGAIN_SEC = 1.0
_ACKNOWLEDGE_WITHIN = Duration(seconds=5.0)


@dataclass(frozen=True)
class Progress:
    """How far the playing has come.

    Attributes:
        played: Messages sent so far.
        total: Messages to send.
        topic: The latest message's topic in the graph.
    """

    played: int
    total: int
    topic: str


class BagPlayer:
    """Publishes a bag's topics from a node."""

    def __init__(self, node: Node, bag: Path, topics: Mapping[str, str]) -> None:
        """Open nothing yet; create the publishers.

        Args:
            node: Publishes; it need not be spun.
            bag: A rosbag2 directory or one storage file.
            topics: Topic in the bag -> topic in the graph. Empty: all, under their own names.

        Raises:
            InvalidInputError: If there is no readable bag, it lacks one of the topics, or nothing
                was recorded on them.
        """
        self._node = node
        self._bag = Bag(bag)
        held = {topic.name: topic for topic in self._bag.topics}
        self._topics = dict(topics) or {name: name for name in held}
        if missing := sorted(set(self._topics) - set(held)):
            raise InvalidInputError(
                "topics", f"topics of the bag ({', '.join(sorted(held))})", ", ".join(missing)
            )
        self._kinds = {name: held[name].msgtype for name in self._topics}
        self.total = sum(held[name].count for name in self._topics)
        if not self.total:  # looped, it would be read again and again without a pause
            got = f"{bag} with none on {', '.join(sorted(self._topics)) or 'any topic'}"
            raise InvalidInputError("bag", "a bag with messages", got)
        self._publishers = {
            name: node.create_publisher(_message_class(held[name].msgtype), target, _qos())
            for name, target in self._topics.items()
        }

    @property
    def damage(self) -> tuple[str, ...]:
        """Sentences about what of the bag cannot be read, as far as it was found yet."""
        return self._bag.damage

    def wait_for_subscribers(
        self,
        stop: threading.Event,
        report: Callable[[list[str]], None] = lambda topics: None,
        advise: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Return once every topic has a subscriber, or at ``stop``.

        Args:
            stop: Ends the waiting.
            report: Told the topics in the graph that have none yet, when that changes.
            advise: Told what to do when that takes long, and again when that changes.
        """
        told: list[str] = []
        advice = ""
        advise_sec = time.monotonic() + _ADVISED_AFTER_SEC
        while not stop.is_set():
            unheard = [p.topic_name for p in self._publishers.values() if not _is_heard(p)]
            if not unheard:
                return
            if unheard != told:
                report(unheard)
            told = unheard
            if time.monotonic() > advise_sec:
                advise_sec = time.monotonic() + _ADVISED_AGAIN_SEC
                before, advice = advice, self._advice(unheard)
                if advice != before:
                    advise(advice)
            stop.wait(_LOOK_AGAIN_SEC)

    def _advice(self, unheard: list[str]) -> str:
        """Return what to do where nobody listens to some topics in the graph."""
        sentences, instead = [], dict(self._topics)
        for in_bag, publisher in self._publishers.items():
            topic = publisher.topic_name
            if topic not in unheard:
                continue
            kind = self._kinds[in_bag]
            others = {
                info.topic_type
                for info in self._node.get_subscriptions_info_by_topic(topic)
                if info.topic_type != kind
            }
            heard = self._heard_elsewhere(topic, kind)
            if others:
                sentences.append(
                    f"Somebody listens to {topic} for {', '.join(sorted(others))}, and the bag has "
                    f"{kind} there (image_transport of the node says which of the two it reads)."
                )
            else:
                sentences.append(f"Nobody listens to {topic} ({kind}).")
            if heard:
                sentences.append(f"Somebody listens to {', '.join(heard)} of that type.")
                instead[in_bag] = heard[0]
        if instead != self._topics:  # --topic leaves out whatever it does not name
            options = (
                f"--topic {name}" if name == target else f"--topic {name}:{target}"
                for name, target in instead.items()
            )
            sentences.append(f"{' '.join(options)} plays there.")
        return " ".join([*sentences, "--no-wait plays at once."])

    def _heard_elsewhere(self, topic: str, kind: str) -> list[str]:
        """Return other topics of a type that somebody listens to."""
        return sorted(
            name
            for name, kinds in self._node.get_topic_names_and_types()
            if kind in kinds and name != topic and self._node.count_subscribers(name)
        )

    def play(
        self,
        rate: float,
        stop: threading.Event,
        report: Callable[[Progress], None],
        on_sending: Callable[[str, bytes], None] = lambda topic, data: None,
    ) -> int:
        """Play once; return the number of messages sent.

        Args:
            rate: Speed against the bag's own time, above 0.
            stop: Ends the playing early.
            report: Called after each message.
            on_sending: Called just before each, with its topic in the bag and its bytes.
        """
        played = 0
        begin = time.monotonic()
        first_ns: int | None = None
        for message in self._bag.messages(self._topics):
            topic, stamp_ns = message.place.topic, message.place.received_ns
            first_ns = stamp_ns if first_ns is None else first_ns
            due = begin + (stamp_ns - first_ns) / _NS_PER_SEC / rate
            if stop.wait(max(0.0, due - time.monotonic())):
                break
            # rclpy sends bytes as they are: nothing is decoded and encoded again.
            data = bytes(message.data)
            on_sending(topic, data)
            self._publishers[topic].publish(data)
            played += 1
            report(Progress(played, self.total, self._topics[topic]))
        self._wait_until_acknowledged()
        return played

    def _wait_until_acknowledged(self) -> None:
        """Let what was sent last arrive before the publishers go."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(_ACKNOWLEDGE_WITHIN)


def _is_heard(publisher: Publisher[Any]) -> bool:
    return publisher.get_subscription_count() > 0


def _qos() -> QoSProfile:
    # Reliable, so that what is played arrives; best-effort subscribers hear it too.
    return QoSProfile(
        depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
    )


def _message_class(name: str) -> Any:
    """Return the class of e.g. ``sensor_msgs/msg/Image``."""
    package, kind, message = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), message)
    except (ImportError, AttributeError) as error:
        raise InvalidInputError(
            "topics", "topics of message types that are installed here", f"{name}: {error}",
            "Name the topics to play.",
        ) from error  # fmt: skip
