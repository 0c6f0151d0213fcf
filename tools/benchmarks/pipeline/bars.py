"""What a node under load is to stay below, or above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def bars_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the loads are to stay below, or above, each with its text, value and bar."""
    quiet, hogged = found["quiet"], found["hogged"]
    alone = quiet["alone: stamp to match [ms]"]
    lines: list[tuple[str, float, float, bool]] = [
        ("alone: stamp to match less encoding, p50 [ms]",
         quiet["alone: stamp to match, less encoding [ms]"]["p50"], 4.0, True),
        ("alone: stamp to match, p90 / p50", alone["p90"] / alone["p50"], 1.3, True),
        ("alone: stamp to match p50, hogged / quiet",
         hogged["alone: stamp to match [ms]"]["p50"] / alone["p50"], 2.5, True),
        ("under load: stamp to match p50, hogged / quiet",
         hogged["stamp to match [ms]"]["p50"] / quiet["stamp to match [ms]"]["p50"], 2.5, True),
        ("720p at 15 Hz, least share delivered",
         found["delivery"]["share delivered, least"], 0.99, False),
    ]  # fmt: skip
    for name in ("quiet", "hogged"):
        load = found[name]
        lines += [
            (f"{name}: text query, p99 under load / p50 idle",
             load["text query [ms]"]["p99"] / load["text query, idle [ms]"]["p50"], 3.0, True),
            (f"{name}: frames older than two periods when work began",
             load["frames older than two periods when work began"], 0.0, True),
            (f"{name}: calls failed or unanswered",
             load["calls failed"] + load["calls unanswered"], 0.0, True),
        ]  # fmt: skip
    return [
        {"text": text, "value": float(value), "bar": bar, "below": below,
         "met": bool(value <= bar if below else value >= bar)}
        for text, value, bar, below in lines
    ]  # fmt: skip
