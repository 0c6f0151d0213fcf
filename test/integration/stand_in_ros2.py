"""Stands in for ``ros2 bag`` where it is not installed: what of it a replay uses, and no more.

It says nothing about the real one, which has a test of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rosbag2_interfaces.srv import Resume
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock

from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval.ros.player import _message_class, _qos

_SEC = 1_000_000_000


class Player:
    """Waits, then plays with a clock that goes on between messages."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Publish the clock, which stands still."""
        arguments = ["--ros-args"]
        for rule in args.remap:
            arguments += ["-r", rule]
        rclpy.init(args=arguments)
        self.node = rclpy.create_node("rosbag2_player")
        self.args = args
        self.reader = AnyReader([args.bag], default_typestore=get_typestore(Stores.LATEST))
        self.reader.open()
        self.start_ns = self.reader.start_time
        self.began: float | None = None
        self.resumed = threading.Event()
        clock = self.node.create_publisher(Clock, "/clock", 1)
        self.publishers = {
            c.topic: self.node.create_publisher(_message_class(c.msgtype), c.topic, _qos())
            for c in self.reader.connections
            if c.topic in args.topics
        }
        self.node.create_timer(
            1 / args.clock, lambda: clock.publish(Clock(clock=to_stamp(self.now_ns())))
        )
        self.node.create_service(Resume, "~/resume", self.resume)

    def resume(self, request: object, response: object) -> object:
        """Go on."""
        self.resumed.set()
        return response

    def now_ns(self) -> int:
        """Return the time of the bag."""
        began = self.began
        if began is None:
            return self.start_ns
        return self.start_ns + round((time.monotonic() - began) * self.args.rate * _SEC)

    def play(self) -> None:
        """Send what is recorded when its time comes."""
        self.resumed.wait()
        self.began = time.monotonic()
        connections = [c for c in self.reader.connections if c.topic in self.publishers]
        for number, (connection, stamp_ns, data) in enumerate(self.reader.messages(connections)):
            if number == self.args.fails_after:
                raise RuntimeError("bad sector")
            if number == self.args.ends_after:
                sys.stdout.write("[ERROR] Failed to play: bad sector\n")
                break
            time.sleep(max(0.0, (stamp_ns - self.now_ns()) / _SEC / self.args.rate))
            self.publishers[connection.topic].publish(bytes(data))
        for publisher in self.publishers.values():
            publisher.wait_for_all_acked()


def main() -> None:
    """Do as ``ros2 bag info`` or ``ros2 bag play``."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True).add_parser("bag").add_subparsers(dest="verb")
    verbs.add_parser("info").add_argument("bag", type=Path)
    play = verbs.add_parser("play")
    play.add_argument("bag", type=Path)
    play.add_argument("--topics", nargs="+")
    play.add_argument("--remap", nargs="+")
    play.add_argument("--qos-profile-overrides-path", type=Path)
    play.add_argument("--rate", type=float)
    play.add_argument("--clock", type=float)
    play.add_argument("--wait-for-all-acked", type=int)
    for switch in ("--start-paused", "--disable-keyboard-controls"):
        play.add_argument(switch, action="store_true", required=True)
    args = parser.parse_args()
    args.fails_after = int(os.environ.get("STAND_IN_FAILS_AFTER", "-1"))
    # The real one ends well when it cannot read on, and when Ctrl-C ends it.
    args.ends_after = int(os.environ.get("STAND_IN_ENDS_AFTER", "-1"))
    if args.verb == "info":
        return
    if args.ends_after == 0:
        return
    player = Player(args)
    executor = SingleThreadedExecutor()
    executor.add_node(player.node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        player.play()
    finally:
        executor.shutdown()
        thread.join()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    main()
