"""Who plays: ``ros2 bag`` where it can, else the package's own player."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rclpy.node import Node, NodeNameNonExistentError

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bags import bag_names
from vla_retrieval.evaluation.decoding import header_stamp_ns
from vla_retrieval.evaluation.frames import Frame, ReadOptions, Recording
from vla_retrieval.evaluation.recordings import recorded_topics
from vla_retrieval.evaluation.topics import STRING
from vla_retrieval.ros.bag_process import why_unreadable
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.frame_player import FramePlayer
from vla_retrieval.ros.playing import Player, ReplayOptions, wait_until
from vla_retrieval.ros.remote import RemoteParameters
from vla_retrieval.ros.rosbag2_player import RecordedBag, Rosbag2Player, resume_type

_WITHIN_SEC = 60.0
# The middleware does not say when it has found everybody: a fraction of a second on idle cores.
_DISCOVERED_WITHIN_SEC = 3.0
_LOOK_EVERY_SEC = 0.05
_CLOCK = "rosgraph_msgs/msg/Clock"
_REMOTE = "retrieval"


def choose_player(
    client: RetrievalClient,
    bags: Sequence[Path],
    recordings: Sequence[Recording],
    frames: Sequence[Frame],
    reading: ReadOptions,
    options: ReplayOptions,
) -> tuple[Player, str]:
    """Choose a player.

    Args:
        client: Of the node.
        bags: As the user named them.
        recordings: What they hold, in the same order.
        frames: Those that ask.
        reading: How the bags are read.
        options: How frames are played, and by whom.

    Returns:
        The player, and why it is not ``ros2 bag`` where that was left to this function; else ''.

    Raises:
        InvalidInputError: If ``ros2 bag`` was asked for by name and cannot play these bags here.
        TimeoutError: If the node does not answer.
    """
    if options.player == "own":
        return FramePlayer(client, options), ""
    asking = {frame.bag for frame in frames}
    of_bag = dict(zip(bag_names(bags), zip(bags, recordings, strict=True), strict=True))
    played = {name: both for name, both in of_bag.items() if name in asking}
    program = shutil.which("ros2")
    why = _why_not_here(program, options.rate) or _why_not_these(
        [path for path, _ in played.values()], program or "", reading
    )
    why = why or _why_not_found([recording for _, recording in played.values()], frames, reading)
    clock_topic = ""
    if not why:
        clock_topic = _clock_topic(client)
        if _is_published(client.node, clock_topic):
            why = (
                f"somebody publishes {clock_topic} already (start the node with "
                "`--ros-args -r /clock:=replay_clock` to have one of its own)"
            )
    if not why:
        recorded = [_recorded(*both, name, reading) for name, both in played.items()]
        return Rosbag2Player(client, recorded, clock_topic, program or "", options), ""
    if options.player == "ros2bag":
        raise InvalidInputError(
            "player", "bags and a machine for `ros2 bag play`", why,
            "Change that, or take --player own.",
        )  # fmt: skip
    return FramePlayer(client, options), why


def _why_not_here(program: str | None, rate: float) -> str:
    """Return what this machine lacks, or asks for that ``ros2 bag`` has not; '' if nothing."""
    if not rate:
        return "rate 0, where each frame waits for the answer to the one before"
    if program is None:
        return "no command ros2 on the PATH"
    try:
        resume_type()
    except (ImportError, AttributeError) as error:
        return f"no messages of ros2 bag for this Python ({error})"
    return ""


def _why_not_these(bags: Sequence[Path], program: str, reading: ReadOptions) -> str:
    """Return what ``ros2 bag`` or the node cannot read of the bags; '' if they can."""
    for bag in bags:
        topics, types = recorded_topics(bag, reading)
        if types[topics.instruction] != STRING:
            return (
                f"instructions of type {types[topics.instruction]} in {bag}, and the node listens "
                f"to {STRING}"
            )
        if why := why_unreadable(program, bag):
            return why
    return ""


def _why_not_found(
    recordings: Sequence[Recording], frames: Sequence[Frame], reading: ReadOptions
) -> str:
    """Return why an answer would not say which frame it is about; '' if it does."""
    if reading.stamps != "header":
        return "frames are stamped by receipt (--stamps received), played images by their headers"
    for recording in recordings:
        keys = Counter((frame.stamp_ns, frame.frame_id) for frame in recording.frames)
        (stamp_ns, frame_id), most = keys.most_common(1)[0]
        if most > 1:
            return (
                f"{most} images of {recording.bag} have the stamp {stamp_ns} ns and the frame id "
                f"{frame_id!r}"
            )
    # Without a stamp in its header, a frame has that of its receipt.
    unsure = (frame for frame in frames if frame.stamp_ns == frame.received_ns)
    if any(not header_stamp_ns(frame.message()) for frame in unsure):
        return "images without a stamp"
    return ""


def _recorded(path: Path, recording: Recording, name: str, reading: ReadOptions) -> RecordedBag:
    topics, types = recorded_topics(path, reading)
    last = max(recording.frames, key=lambda frame: frame.received_ns)
    return RecordedBag(
        name, path, topics.images, topics.instruction, types[topics.images[0]], recording.images,
        last,
    )  # fmt: skip


def _clock_topic(client: RetrievalClient) -> str:
    """Return where the node would read simulated time; it may have been told another topic."""
    node = client.node
    parameters = RemoteParameters(node, _REMOTE, _WITHIN_SEC)
    with parameters.temporarily({"use_sim_time": True}):
        wait_until(
            lambda: _clocks(node), _WITHIN_SEC,
            "the node does not listen to a clock when use_sim_time is set",
        )  # fmt: skip
        return _clocks(node)[0]


def _is_published(node: Node, topic: str) -> bool:
    """Return whether anybody publishes a topic, also one whom this node has still to discover."""
    end_sec = time.monotonic() + _DISCOVERED_WITHIN_SEC
    while not node.count_publishers(topic):
        if time.monotonic() >= end_sec:
            return False
        time.sleep(_LOOK_EVERY_SEC)
    return True


def _clocks(node: Node) -> list[str]:
    try:
        found = node.get_subscriber_names_and_types_by_node(_REMOTE, node.get_namespace())
    except NodeNameNonExistentError:  # its services are discovered before its name, now and then
        return []
    return [topic for topic, types in found if _CLOCK in types]
