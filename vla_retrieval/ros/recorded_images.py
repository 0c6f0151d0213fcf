"""Recorded image messages as messages that can be sent again."""

from __future__ import annotations

from typing import Any

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval.ros.frames import ImageMessage


def to_image(recorded: Any, stamp_ns: int) -> ImageMessage:
    """Return a recorded image with another stamp.

    Args:
        recorded: With the fields of sensor_msgs/Image or CompressedImage, whatever decoded it.
        stamp_ns: Nanoseconds since the epoch.
    """
    header = Header(stamp=to_stamp(stamp_ns), frame_id=recorded.header.frame_id)
    # Bytes, because a message checks an array element by element.
    data = bytes(recorded.data)
    if hasattr(recorded, "encoding"):
        return Image(
            header=header, height=recorded.height, width=recorded.width,
            encoding=recorded.encoding, is_bigendian=recorded.is_bigendian, step=recorded.step,
            data=data,
        )  # fmt: skip
    return CompressedImage(header=header, format=recorded.format, data=data)
