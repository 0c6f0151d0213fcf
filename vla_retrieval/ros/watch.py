"""Notices that a camera publishes and nothing arrives, with the cure, or that there is none."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy import get_rmw_implementation_identifier


def cure(middleware: str) -> str:
    """Return what to do where images are lost between two processes.

    Args:
        middleware: As rclpy names it, e.g. ``rmw_fastrtps_cpp``.
    """
    if "fastrtps" in middleware:
        transport = (
            "Large best-effort images are lost between two processes under Fast DDS's default "
            "transports. Start BOTH the camera and this node with FASTDDS_DEFAULT_PROFILES_FILE "
            "(before Kilted: FASTRTPS_DEFAULT_PROFILES_FILE) set to "
            "config/fastdds_large_images.xml of this package's share folder, as its launch files "
            "do, or with FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA"
        )
    else:
        # docs.ros.org, "DDS tuning information"
        transport = (
            f"Large best-effort images are lost under {middleware} where the kernel's buffer for "
            "received packets is small. Raise it on both machines (sysctl -w "
            'net.core.rmem_max=2147483647; "DDS tuning information" in ROS 2\'s documentation '
            "says more)"
        )
    return f"{transport}; or set image_reliability to reliable where the camera publishes reliably."


CURE = cure(get_rmw_implementation_identifier())
"""The same for the middleware of this process."""


@dataclass(frozen=True)
class Silence:
    """Why no frames come, in words for a person."""

    text: str


class FrameWatch:
    """Judges from publishers and frames whether the camera is heard."""

    def __init__(self, topic: str, timeout_sec: float, now_sec: float) -> None:
        """Watch a topic.

        Args:
            topic: Its resolved name.
            timeout_sec: Silence that is worth a warning.
            now_sec: Seconds on a steady clock, as in the calls that follow.
        """
        self._topic = topic
        self._timeout_sec = timeout_sec
        self._frames = 0
        self._heard_sec = now_sec

    def judge(self, frames: int, publishers: int, now_sec: float) -> Silence | None:
        """Return what is wrong, or None while frames come or nobody publishes.

        Args:
            frames: Frames received so far.
            publishers: Publishers that are matched on the topic.
            now_sec: Seconds on the steady clock.
        """
        if frames != self._frames or not publishers:
            self._frames, self._heard_sec = frames, now_sec
            return None
        silent_sec = now_sec - self._heard_sec
        if silent_sec < self._timeout_sec:
            return None
        count = "1 publisher is" if publishers == 1 else f"{publishers} publishers are"
        tail = "not one frame" if frames == 0 else "no more frames"
        return Silence(
            f"{count} matched on {self._topic}, but {tail} came in {silent_sec:.0f} s. {CURE}"
        )


class AbsenceWatch:
    """Notices that nobody publishes."""

    def __init__(self, timeout_sec: float, now_sec: float) -> None:
        """Begin to watch.

        Args:
            timeout_sec: Absence that is worth a warning.
            now_sec: Seconds on a steady clock, as in the calls that follow.
        """
        self._timeout_sec = timeout_sec
        self._there_sec = now_sec

    def judge(self, publishers: int, now_sec: float) -> float:
        """Return for how many seconds nobody has, or 0 where that is not worth a warning.

        Args:
            publishers: Of the topic, heard or not.
            now_sec: Seconds on the steady clock.
        """
        if publishers:
            self._there_sec = now_sec
        absent_sec = now_sec - self._there_sec
        return absent_sec if absent_sec >= self._timeout_sec else 0.0
