"""Do large images arrive between two processes, and do the processes find each other at all?

``python -m tools.benchmarks.transports`` starts a publisher and a subscriber, two processes, again
and again, with each transport of Fast DDS in turn, and prints how often they found each other and
which share of best-effort images arrived at 15 Hz. Every start has a ROS domain of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import rclpy
from domain_coordinator import domain_id
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sensor_msgs.msg import Image

_PROFILE: Final = Path(__file__).parents[2] / "config" / "fastdds_large_images.xml"
TRANSPORTS: Final[dict[str, dict[str, str]]] = {
    "default": {},
    "shipped profile": {"FASTDDS_DEFAULT_PROFILES_FILE": str(_PROFILE)},
    "LARGE_DATA": {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
}
_CHOOSING: Final = (
    "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
)  # fmt: skip
SIZES: Final = {"vga": (480, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
_RATE_HZ: Final = 15.0
_FIND_WITHIN_SEC: Final = 15.0
_TOPIC: Final = "benchmark_image"


def publish(size: str, images: int) -> None:
    """Wait for the subscriber, then publish at 15 Hz; print whether it was found."""
    height, width = SIZES[size]
    rclpy.init()
    node = Node("benchmark_publisher")
    publisher = node.create_publisher(Image, _TOPIC, qos_profile_sensor_data)
    found = _wait(node, lambda: publisher.get_subscription_count() > 0)
    print(json.dumps({"found": found}), flush=True)
    sys.stdin.readline()  # the subscriber has found us too
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = bytes(3 * height * width)
    for number in range(images if found else 0):
        message.header.frame_id = str(number)
        publisher.publish(message)
        time.sleep(1 / _RATE_HZ)
    print("{}", flush=True)
    sys.stdin.readline()  # the subscriber has counted


def subscribe() -> None:
    """Count images until told to stop; print whether the publisher was found, then the count."""
    rclpy.init()
    node = Node("benchmark_subscriber")
    received: set[str] = set()
    subscription = node.create_subscription(
        Image, _TOPIC, lambda image: received.add(image.header.frame_id), qos_profile_sensor_data
    )
    found = _wait(node, lambda: subscription.get_publisher_count() > 0)
    print(json.dumps({"found": found}), flush=True)
    while not _told_to_stop():
        rclpy.spin_once(node, timeout_sec=0.05)
    print(json.dumps({"received": len(received)}), flush=True)


def one_start(transport: str, size: str, images: int) -> tuple[bool, float]:
    """Start both processes; return whether each found the other, and the share that arrived."""
    environment = {k: v for k, v in os.environ.items() if k not in _CHOOSING}
    environment.update(TRANSPORTS[transport])
    with domain_id() as domain:
        environment["ROS_DOMAIN_ID"] = str(domain)
        subscriber = _child(environment, "--subscribe")
        publisher = _child(environment, "--publish", size, str(images))
        found = [_answer(process)["found"] for process in (publisher, subscriber)]
        _tell(publisher)
        _answer(publisher)
        time.sleep(0.5)  # what is under way may still arrive
        _tell(subscriber)
        received = _answer(subscriber)["received"]
        _tell(publisher)
        for process in (publisher, subscriber):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                # Fast DDS may wait for ever when a participant goes (Fast-DDS issue 6513).
                process.kill()
    return all(found), received / images


def share(hits: int, tries: int) -> str:
    """A share with its 95% interval (Wilson, J. Am. Stat. Assoc. 1927)."""
    z, p = 1.96, hits / tries
    middle = (p + z * z / (2 * tries)) / (1 + z * z / tries)
    half = z * math.sqrt(p * (1 - p) / tries + z * z / (4 * tries**2)) / (1 + z * z / tries)
    return f"{hits} of {tries} [{max(0.0, middle - half):.3f}, {min(1.0, middle + half):.3f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure discovery and delivery by transport.")
    parser.add_argument("--starts", type=int, default=20, help="of each transport and size")
    parser.add_argument("--images", type=int, default=45, help="published in each start")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["vga", "720p"])
    parser.add_argument("--publish", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--subscribe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(options.publish[0], int(options.publish[1]))
    elif options.subscribe:
        subscribe()
    else:
        _compare(options.starts, options.images, options.sizes)


def _compare(starts: int, images: int, sizes: list[str]) -> None:
    found: dict[str, list[bool]] = defaultdict(list)
    arrived: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in track(range(starts), "starting", console=Console(stderr=True)):
        for size in sizes:
            for transport in TRANSPORTS:  # in turn, so that a busy machine hits all alike
                met, part = one_start(transport, size, images)
                found[transport].append(met)
                if met:
                    arrived[transport, size].append(part)
    table = Table(title=f"{images} best-effort images at {_RATE_HZ:.0f} Hz in each start")
    for column in ("transport", "found each other", *(f"{s}: mean share, least" for s in sizes)):
        table.add_column(column)
    for transport, met_all in found.items():
        parts = [arrived[transport, size] or [0.0] for size in sizes]
        shares = [f"{sum(p) / len(p):.3f}, {min(p):.3f}" for p in parts]
        table.add_row(transport, share(sum(met_all), len(met_all)), *shares)
    Console(width=120).print(table)


def _wait(node: Node, met: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _FIND_WITHIN_SEC
    while not met() and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.02)
    return met()


def _child(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.benchmarks.transports", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def _answer(process: subprocess.Popen[str]) -> dict[str, int]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args}: ended with {process.wait()}")
    answer: dict[str, int] = json.loads(line)
    return answer


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _told_to_stop() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(ready)


if __name__ == "__main__":
    main()
