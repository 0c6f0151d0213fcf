"""Requests as a broken or malicious client sends them, from a seed; some are good by chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from geometry_msgs.msg import Point, PointStamped, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval_msgs.msg import ActionPayload, Filter

from .harness import image_message, picture

_TEXTS = (
    "", " ", "\n\t", "拿起桌子上的杯子", "cup", "'; DROP TABLE entries; --", "%s%n{0}$(reboot)`id`",
    "../../etc/passwd", "/dev/zero", "\u202e\u0000\ufeff", "é" * 300, "x" * 9_999, "x" * 10_001,
    "🤖" * 3_000, "NaN", "\\", '"', "a\x00b",
)  # fmt: skip
_FLOATS = (0.0, 0.5, 1.0, -1.0, 1e-45, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan, 1.0000001)
_WHOLE = (0, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**32 - 1)
_IDS = (0, 1, 2, 3, 2**31, 2**63 - 1, 2**63, 2**64 - 1)
_ENCODINGS = ("rgb8", "bgr8", "mono8", "mono16", "bayer_rggb8", "yuv422", "16UC1", "", "rgb8\x00")
_JPEG = make_thumbnail(picture(1), 64)
_ODDLY = 0.5  # share of fields that are set at all


def hostile_requests(seed: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield services with the fields of a request each; the same for the same seed."""
    random = Random(seed)
    makers = {
        "retrieve": _retrieve, "remember": _remember, "forget": _ids, "pin": _pin,
        "get_entry": _get_entry, "get_stats": lambda _: {},
    }  # fmt: skip
    weights = (8, 4, 1, 1, 1, 1)
    for _ in range(count):
        service = random.choices(tuple(makers), weights)[0]
        yield service, makers[service](random)


def _some(random: Random, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if random.random() < _ODDLY}


def _retrieve(random: Random) -> dict[str, Any]:
    return _picture(random) | _some(
        random,
        {
            "instruction": random.choice(_TEXTS),
            "target": random.choice((0, 1, 2, 3, 255)),
            "scene_weight": random.choice(_FLOATS),
            "k": random.choice(_WHOLE),
            "min_score": random.choice(_FLOATS),
            "diversity": random.choice(_FLOATS),
            "filter": _filter(random),
            "with_thumbnails": True,
            "timeout_sec": random.choice(_FLOATS),
            "accept_stale": True,
        },
    )


def _remember(random: Random) -> dict[str, Any]:
    return _picture(random) | _some(
        random,
        {
            "instruction": random.choice(_TEXTS),
            "episode_id": random.choice(_TEXTS),
            "outcome": random.choice((0, 1, 2, 3, 255)),
            "action": _action(random),
            "has_camera_pose": True,
            "camera_pose": PoseStamped(
                pose=Pose(position=_point(random), orientation=_turn(random))
            ),
            "tags": _texts(random),
            "metadata": _metadata(random),
            "pinned": random.random() < 0.1,
        },
    )


def _ids(random: Random) -> dict[str, Any]:
    return {"entry_ids": [random.choice(_IDS) for _ in range(random.randrange(4))]}


def _pin(random: Random) -> dict[str, Any]:
    return {**_ids(random), "pinned": random.random() < 0.5}


def _get_entry(random: Random) -> dict[str, Any]:
    return {
        "entry_id": random.choice(_IDS),
        "with_thumbnail": random.random() < 0.5,
        "with_embeddings": random.random() < 0.5,
    }


def _picture(random: Random) -> dict[str, Any]:
    """Return some image fields, more often than not exactly one."""
    fields: dict[str, Any] = {}
    if random.random() < 0.6:
        fields["image"] = _raw(random)
    if random.random() < 0.3:
        fields["compressed_image"] = _compressed(random)
    if random.random() < 0.1:
        fields["use_newest_frame"] = True
    return fields


def _raw(random: Random) -> Image:
    message = image_message(picture(random.randrange(20)), random.choice((0, 1, 10**18)))
    for name, values in {
        "height": _WHOLE, "width": _WHOLE, "step": _WHOLE, "encoding": _ENCODINGS,
        "is_bigendian": (0, 1, 255), "data": (b"", b"\x00", bytes(1000)),
    }.items():  # fmt: skip
        if random.random() < 0.1:
            setattr(message, name, random.choice(values))
    if random.random() < 0.1:
        message.header.stamp = _stamp(random)
    return message


def _compressed(random: Random) -> CompressedImage:
    data = bytearray(_JPEG)
    for _ in range(random.randrange(6)):
        data[random.randrange(len(data))] = random.randrange(256)
    cut = random.choice((len(data), len(data), random.randrange(len(data))))
    kind = random.choice(
        ("jpeg", "png", "", "16UC1; compressedDepth", "rgb8; jpeg compressed bgr8")
    )
    return CompressedImage(format=kind, data=bytes(data[:cut]))


def _filter(random: Random) -> Filter:
    return Filter(
        **_some(
            random,
            {
                "stamp_from": _stamp(random),
                "stamp_to": _stamp(random),
                "episode_ids": _texts(random),
                "outcomes": [random.choice((0, 1, 2, 3, 255)) for _ in range(random.randrange(3))],
                "frame_ids": _texts(random),
                "tags": _texts(random),
                "metadata": _metadata(random),
                "exclude_ids": [random.choice(_IDS) for _ in range(random.randrange(4))],
                "has_near": random.random() < 0.5,
                "near": PointStamped(point=_point(random)),
                "near_radius_m": random.choice(_FLOATS),
            },
        )
    )


def _stamp(random: Random) -> Time:
    seconds = random.choice((-(2**31), -1, 0, 1, 2**31 - 1))
    return Time(sec=seconds, nanosec=random.choice((0, 1, 999_999_999, 2**32 - 1)))


def _texts(random: Random) -> list[str]:
    return [random.choice(_TEXTS) for _ in range(random.randrange(3))]


def _metadata(random: Random) -> list[KeyValue]:
    return [KeyValue(key=key, value=random.choice(_TEXTS)) for key in _texts(random)]


def _action(random: Random) -> ActionPayload:
    return ActionPayload(
        space=random.choice(_TEXTS),
        shape=[random.choice(_WHOLE) for _ in range(random.randrange(3))],
        values=[random.choice(_FLOATS) for _ in range(random.randrange(4))],
    )


def _point(random: Random) -> Point:
    x, y, z = (random.choice(_FLOATS) for _ in range(3))
    return Point(x=x, y=y, z=z)


def _turn(random: Random) -> Quaternion:
    return Quaternion(w=random.choice(_FLOATS))
