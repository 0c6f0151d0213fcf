"""``play_bag``: plays a rosbag into the graph where ``ros2 bag`` is not installed."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros_arguments import split_ros_arguments

_EPILOG = """\
examples:
  ros2 run vla_retrieval play_bag kitchen_bag
  ros2 run vla_retrieval play_bag kitchen_bag --loop --rate 0.5 --topic /camera/image:/image
  ros2 run vla_retrieval play_bag kitchen_bag --ros-args -r /camera/image:=/robot/image

Messages keep their stamps. It waits until every topic has a subscriber, and sends reliably.

exit codes: 0 played, or stopped by Ctrl-C or SIGTERM; 2 wrong usage, or not a bag
"""


def main(argv: list[str] | None = None) -> int:
    """Play a bag; return 0, or 2 when the arguments are no good."""
    parser = argparse.ArgumentParser(
        prog="play_bag",
        description="Plays a rosbag into the graph where ros2 bag is not installed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bag", type=Path, metavar="BAG", help="rosbag2 folder or file (sqlite3 or mcap)"
    )
    parser.add_argument(
        "--rate", type=float, default=1.0, metavar="FACTOR",
        help="speed against the bag's own time (default: 1)",
    )  # fmt: skip
    parser.add_argument("--loop", action="store_true", help="start over at the end")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="IN_BAG:IN_GRAPH",
        help="play only this topic, under another name; may be given several times (default: all, "
        "under their own names)",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="do not wait until every topic has a subscriber"
    )
    ours, of_ros = split_ros_arguments(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(ours)
    if not args.rate > 0:
        parser.error(f"--rate: expected a number above 0, got {args.rate}")
    topics = {}
    for pair in args.topic:
        in_bag, _, in_graph = pair.partition(":")
        topics[in_bag] = in_graph or in_bag
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    from vla_retrieval.ros.play import play_bag

    try:
        play_bag(
            args.bag, topics, args.rate, stop, loop=args.loop, wait=not args.no_wait,
            ros_arguments=of_ros,
        )  # fmt: skip
    except InvalidInputError as error:
        print(f"play_bag: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
