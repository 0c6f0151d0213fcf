"""A running node under load: a camera, a planner's questions and inserts, all at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from domain_coordinator import domain_id
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from tools.benchmarks.pipeline.bench import (
    SIZES,
    Settings,
    draw,
    filled_memory,
    memory_folder,
)
from vla_retrieval.encoders import load_encoder
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns, to_stamp
from vla_retrieval.ros.images import to_image_message
from vla_retrieval.transport import large_image_environment
from vla_retrieval_msgs.msg import MatchArray

_CAMERA_HZ: Final = 30.0
_CALLS_HZ: Final = 10.0
_INSERTS_HZ: Final = 5.0
_IDLE_CALLS: Final = 30
_START_SEC: Final = 300.0
_ANSWER_SEC: Final = 60.0
_HOG: Final = "while True: pass"
_SHARE: Final = Path(__file__).parents[3]


def measure(settings: Settings) -> dict[str, Any]:
    """Load a node twice: on a quiet machine, and with one core hogged by another process.

    Returns:
        What `_one_load` says of each, under ``quiet`` and ``hogged``.
    """
    encoder = load_encoder(settings.encoder)
    filled_memory(settings, encoder).close()
    source = memory_folder(settings, encoder)
    del encoder
    found = {}
    for name, is_hogged in (("quiet", False), ("hogged", True)):
        copy = settings.work / "memory-under-load"
        shutil.rmtree(copy, ignore_errors=True)
        subprocess.run(["cp", "-r", "--reflink=auto", str(source), str(copy)], check=True)
        with _domain(), _node(settings, copy), _hog(is_hogged), RetrievalClient() as client:
            found[name] = _one_load(client, settings.load_sec)
        shutil.rmtree(copy, ignore_errors=True)
    return found


class Watcher:
    """Notes when matches and answers come.

    Attributes:
        latency_ms: From a frame's stamp to its matches.
        age_ms: Of the frame when the node began to work on it.
        failures: Messages of calls that failed.
    """

    def __init__(self, client: RetrievalClient) -> None:
        self.latency_ms: list[float] = []
        self.age_ms: list[float] = []
        self.failures: list[str] = []
        client.node.create_subscription(MatchArray, "retrieval/matches", self._on_matches, 10)

    def _on_matches(self, message: MatchArray) -> None:
        latency = (time.time_ns() - to_ns(message.header.stamp)) / 1e6
        self.latency_ms.append(latency)
        self.age_ms.append(latency - message.times.total_sec * 1e3)

    def call(self, client: RetrievalClient, kind: str, into: list[float], **fields: Any) -> None:
        """Call a service; note how long the answer takes, or why there is none."""
        begun = time.perf_counter()

        def done(future: Future[Any]) -> None:
            into.append((time.perf_counter() - begun) * 1e3)
            if not future.result().success:
                self.failures.append(future.result().message)

        client.call_async(kind, _ANSWER_SEC, **fields).add_done_callback(done)


def _one_load(client: RetrievalClient, seconds: float) -> dict[str, Any]:
    watcher = Watcher(client)
    if not client.wait_until_active(lambda: True, _START_SEC):
        raise RuntimeError("the node did not become active; its output is above")
    idle: list[float] = []
    for number in range(_IDLE_CALLS):
        begun = time.perf_counter()
        client.call("retrieve", instruction=f"pick up block {number}", k=5)
        idle.append((time.perf_counter() - begun) * 1e3)
    queries: list[float] = []
    inserts: list[float] = []
    published, asked = _drive(client, watcher, seconds, queries, inserts)
    end = time.monotonic() + _ANSWER_SEC
    while len(queries) + len(inserts) < asked and time.monotonic() < end:
        time.sleep(0.05)
    return {
        "seconds": seconds,
        "stamp to match [ms]": _tail(watcher.latency_ms),
        "age of the frame when work on it began [ms]": _tail(watcher.age_ms),
        "frames published": published,
        "frames answered": len(watcher.latency_ms),
        "text query, idle [ms]": _tail(idle),
        "text query [ms]": _tail(queries),
        "insert [ms]": _tail(inserts),
        "calls": asked,
        "calls unanswered": asked - len(queries) - len(inserts),
        "calls failed": len(watcher.failures),
        "first failure": watcher.failures[0] if watcher.failures else "",
    }


def _drive(
    client: RetrievalClient, watcher: Watcher, seconds: float, queries: list[float],
    inserts: list[float],
) -> tuple[int, int]:  # fmt: skip
    """Publish, ask and insert at their rates; return frames published and calls made."""
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    camera = client.node.create_publisher(Image, "image", quality)
    frames = [to_image_message(draw(SIZES["VGA"], seed), Image()) for seed in range(8)]
    begun = time.perf_counter()
    published = calls = inserted = 0
    while (now := time.perf_counter() - begun) < seconds:
        if now >= published / _CAMERA_HZ:
            message = frames[published % len(frames)]
            message.header = Header(stamp=to_stamp(time.time_ns()), frame_id="camera")
            camera.publish(message)
            published += 1
        if now >= calls / _CALLS_HZ:
            text = f"put block {calls} into the box"
            watcher.call(client, "retrieve", queries, instruction=text, k=5)
            calls += 1
        if now >= (inserted + 5) / _INSERTS_HZ:  # a second later: there is a frame by then
            watcher.call(
                client, "remember", inserts, use_newest_frame=True,
                instruction=f"stack block {inserted}",
            )  # fmt: skip
            inserted += 1
        due = min(published / _CAMERA_HZ, calls / _CALLS_HZ, (inserted + 5) / _INSERTS_HZ)
        time.sleep(max(0.0, due - (time.perf_counter() - begun)))
    return published, calls + inserted


def _tail(values: list[float]) -> dict[str, float]:
    if not values:
        return {"p50": float("nan"), "p95": float("nan"), "p99": float("nan"), "max": float("nan")}
    p50, p95, p99, top = np.quantile(values, [0.5, 0.95, 0.99, 1.0])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(top)}


@contextmanager
def _domain() -> Iterator[None]:
    """Give node and client a ROS domain of their own, and the shipped transport."""
    before = dict(os.environ)
    with domain_id() as number:
        os.environ["ROS_DOMAIN_ID"] = str(number)
        os.environ.update(large_image_environment(_SHARE))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _node(settings: Settings, memory_dir: Path) -> Iterator[None]:
    encoder = settings.encoder
    values = {
        "model": encoder.model, "checkpoint": encoder.checkpoint, "device": encoder.device,
        "engine": encoder.engine, "engine_cache_dir": encoder.engine_cache_dir,
        "precision": encoder.precision, "threads": encoder.threads,
        "memory_dir": memory_dir.resolve(), "index": settings.index,
    }  # fmt: skip
    command = [sys.executable, "-m", "vla_retrieval.ros.main", "--ros-args", "--log-level", "warn"]
    for name, value in values.items():
        if value != "":
            command += ["-p", f"{name}:={value}"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)


@contextmanager
def _hog(is_wanted: bool) -> Iterator[None]:
    if not is_wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", _HOG])
    try:
        yield
    finally:
        process.kill()
        process.wait()
