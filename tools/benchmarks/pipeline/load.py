"""A running node under load: a camera, a planner's questions and inserts, all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tools.benchmarks import transports
from tools.benchmarks.pipeline.bars import bars_of
from tools.benchmarks.pipeline.bench import Settings, filled_memory
from tools.benchmarks.pipeline.running import (
    copied_memory,
    hogged_core,
    own_domain,
    running_node,
)
from tools.benchmarks.pipeline.traffic import ANSWER_SEC, Camera, Watcher
from vla_retrieval.encoders import load_encoder
from vla_retrieval.ros.client import RetrievalClient

_CAMERA_HZ: Final = 30.0
_CALLS_HZ: Final = 10.0
_INSERTS_HZ: Final = 5.0
_TWO_PERIODS_MS: Final = 2e3 / _CAMERA_HZ
_IDLE_CALLS: Final = 50
_ALONE_FRAMES: Final = 100
_ALONE_SEC: Final = 240.0
_RESEND_SEC: Final = 2.0
_DELIVERIES: Final = 4
_DELIVERED: Final = 150
_START_SEC: Final = 300.0


def measure(settings: Settings) -> dict[str, Any]:
    """Load a node twice: on a quiet machine, and with one core hogged by another process.

    Returns:
        What `_one_load` says of each, under ``quiet`` and ``hogged``; under ``delivery`` the share
        of 720p frames at 15 Hz that arrive under the shipped transport; under ``bars`` each ratio
        with its bar.
    """
    encoder = load_encoder(settings.encoder)
    filled_memory(settings, encoder).close()
    found: dict[str, Any] = {}
    for name, is_hogged in (("quiet", False), ("hogged", True)):
        with (
            copied_memory(settings, encoder) as memory_dir, own_domain(),
            running_node(settings.encoder, memory_dir, settings.index) as is_alive,
            RetrievalClient(executor="auto") as client, hogged_core(is_hogged),
        ):  # fmt: skip
            found[name] = _one_load(client, is_alive, settings.load_sec)
    found["delivery"] = _delivery()
    found["bars"] = bars_of(found)
    return found


def _one_load(
    client: RetrievalClient, is_alive: Callable[[], bool], seconds: float
) -> dict[str, Any]:
    if not client.wait_until_active(is_alive, _START_SEC):
        raise RuntimeError("the node did not become active; its output is above")
    watcher = Watcher(client)
    camera = Camera(client)
    camera.wait_for_node(watcher)
    alone = _alone(camera, watcher)
    return {
        "seconds": seconds, **alone,
        "text query, idle [ms]": _tail(_idle(client, "jar", 0.0)),
        # Caches and clocks have as long to cool down between two as under load.
        "text query, idle, as often as under load [ms]": _tail(
            _idle(client, "bag", 1.0 / _CALLS_HZ)
        ),
        **_loaded(client, camera, watcher, seconds),
    }  # fmt: skip


def _question(number: int, where: str = "box") -> str:
    """Return a new question, of as many tokens as every other: fewer would be read faster."""
    return f"put block {100 + number} into the {where}"


def _idle(client: RetrievalClient, where: str, pause_sec: float) -> list[float]:
    """Return milliseconds of questions that nothing else goes on beside, each a new one."""
    taken = []
    for number in range(_IDLE_CALLS):
        time.sleep(pause_sec)
        begun = time.perf_counter()
        client.call("retrieve", instruction=_question(number, where), k=5)
        taken.append((time.perf_counter() - begun) * 1e3)
    return taken


def _alone(camera: Camera, watcher: Watcher) -> dict[str, Any]:
    """Send frames one after the other, with nothing beside them."""
    end = time.monotonic() + _ALONE_SEC
    while len(watcher.latency_ms) < _ALONE_FRAMES:
        answered = len(watcher.latency_ms)
        camera.publish()
        # Best effort: a frame that is lost on its way is sent anew.
        watcher.wait_for(answered + 1, _RESEND_SEC)
        if time.monotonic() > end:
            raise RuntimeError(
                f"{answered} of {_ALONE_FRAMES} frames were answered within {_ALONE_SEC:g} s"
            )
    kept = slice(_ALONE_FRAMES // 10, None)  # the first ones find cold caches
    latency, encoding = np.array(watcher.latency_ms[kept]), np.array(watcher.encode_ms[kept])
    return {
        "alone: stamp to match [ms]": _tail(latency),
        "alone: stamp to match, less encoding [ms]": _tail(latency - encoding),
    }


def _loaded(
    client: RetrievalClient, camera: Camera, watcher: Watcher, seconds: float
) -> dict[str, Any]:
    """Publish, ask and insert at their rates for so long."""
    watcher.forget()
    queries: list[float] = []
    inserts: list[float] = []
    before = client.call("get_stats")
    published = camera.published
    asked = _drive(client, camera, watcher, seconds, (queries, inserts))
    published = camera.published - published
    end = time.monotonic() + ANSWER_SEC
    while len(queries) + len(inserts) < asked and time.monotonic() < end:
        time.sleep(0.05)
    after = client.call("get_stats")
    received, skipped, rejected = (
        int(getattr(after, f"frames_{what}")) - int(getattr(before, f"frames_{what}"))
        for what in ("received", "skipped", "rejected")
    )
    ages = np.array(watcher.age_ms)
    return {
        "stamp to match [ms]": _tail(watcher.latency_ms),
        "age of the frame when work on it began [ms]": _tail(ages),
        "encoding [ms]": _tail(watcher.encode_ms),
        "frames published": published,
        "frames lost on their way": published - received,
        "frames replaced by a newer one": skipped,
        "frames refused": rejected,
        "frames answered": len(watcher.latency_ms),
        "frames older than two periods when work began": int((ages > _TWO_PERIODS_MS).sum()),
        "text query [ms]": _tail(queries),
        "insert [ms]": _tail(inserts),
        "calls": asked,
        "calls unanswered": asked - len(queries) - len(inserts),
        "calls failed": len(watcher.failures),
        "first failure": watcher.failures[0] if watcher.failures else "",
    }


def _drive(
    client: RetrievalClient, camera: Camera, watcher: Watcher, seconds: float,
    into: tuple[list[float], list[float]],
) -> int:  # fmt: skip
    """Publish, ask and insert at their rates; return the number of calls made."""
    queries, inserts = into
    begun = time.perf_counter()
    frames = calls = inserted = 0
    while (now := time.perf_counter() - begun) < seconds:
        if now >= frames / _CAMERA_HZ:
            camera.publish()
            frames += 1
        if now >= calls / _CALLS_HZ:
            watcher.call(client, "retrieve", queries, instruction=_question(calls), k=5)
            calls += 1
        if now >= (inserted + 5) / _INSERTS_HZ:  # a second later: there is a frame by then
            watcher.call(
                client, "remember", inserts, use_newest_frame=True,
                instruction=_question(inserted, "shelf"),
            )  # fmt: skip
            inserted += 1
        due = min(frames / _CAMERA_HZ, calls / _CALLS_HZ, (inserted + 5) / _INSERTS_HZ)
        time.sleep(max(0.0, due - (time.perf_counter() - begun)))
    return calls + inserted


def _delivery() -> dict[str, Any]:
    """How many 720p frames at 15 Hz arrive between two processes, with the shipped transport."""
    shares = [share for found, share in (
        transports.one_start("shipped profile", "720p", _DELIVERED) for _ in range(_DELIVERIES)
    ) if found]  # fmt: skip
    return {
        "starts": _DELIVERIES,
        "starts that found each other": len(shares),
        "frames in each": _DELIVERED,
        "share delivered, least": min(shares, default=0.0),
        "share delivered, mean": float(np.mean(shares)) if shares else 0.0,
    }


def _tail(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("p50", "p90", "p95", "p99", "max"), float("nan"))
    p50, p90, p95, p99, top = np.quantile(values, [0.5, 0.9, 0.95, 0.99, 1.0]).tolist()
    return {"p50": p50, "p90": p90, "p95": p95, "p99": p99, "max": top}
