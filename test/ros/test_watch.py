"""The frame watch: silence from a camera that publishes is noticed, and nothing else."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="the watch belongs to the node")

from vla_retrieval.ros.watch import CURE, AbsenceWatch, FrameWatch, cure


def test_publishers_without_frames_are_a_warning_that_names_the_cure() -> None:
    """After the timeout the text says what to set, and where."""
    watch = FrameWatch("/camera/image", timeout_sec=5.0, now_sec=100.0)
    assert watch.judge(frames=0, publishers=1, now_sec=104.0) is None
    silence = watch.judge(frames=0, publishers=1, now_sec=106.0)
    assert silence is not None
    for word in ("/camera/image", "not one frame", "6 s", CURE):
        assert word in silence.text


@pytest.mark.parametrize(
    ("middleware", "words"),
    [
        (
            "rmw_fastrtps_cpp",
            ("FASTDDS_DEFAULT_PROFILES_FILE", "fastdds_large_images.xml", "BOTH"),
        ),
        ("rmw_cyclonedds_cpp", ("rmw_cyclonedds_cpp", "net.core.rmem_max")),
    ],
)
def test_the_cure_is_that_of_the_middleware_in_use(middleware: str, words: tuple[str, ...]) -> None:
    text = cure(middleware)
    for word in (*words, "image_reliability"):
        assert word in text
    assert ("Fast DDS" in text) == ("fastrtps" in middleware)


def test_no_publisher_is_no_silence_however_long() -> None:
    """A camera that is not there yet is not at fault."""
    watch = FrameWatch("/camera/image", timeout_sec=5.0, now_sec=0.0)
    assert watch.judge(frames=0, publishers=0, now_sec=1000.0) is None
    assert watch.judge(frames=0, publishers=1, now_sec=1004.0) is None


def test_frames_that_come_reset_the_clock_and_a_later_stop_is_noticed() -> None:
    """A stream that dries up is a silence too."""
    watch = FrameWatch("/camera/image", timeout_sec=5.0, now_sec=0.0)
    assert watch.judge(frames=10, publishers=2, now_sec=9.0) is None
    assert watch.judge(frames=10, publishers=2, now_sec=13.0) is None
    silence = watch.judge(frames=10, publishers=2, now_sec=15.0)
    assert silence is not None
    assert "no more frames" in silence.text


def test_absence_counts_from_the_last_publisher_and_only_after_the_timeout() -> None:
    watch = AbsenceWatch(timeout_sec=5.0, now_sec=100.0)
    assert watch.judge(publishers=0, now_sec=104.0) == 0.0
    assert watch.judge(publishers=0, now_sec=106.0) == 6.0
    assert watch.judge(publishers=1, now_sec=107.0) == 0.0
    assert watch.judge(publishers=0, now_sec=111.0) == 0.0
    assert watch.judge(publishers=0, now_sec=113.0) == 6.0
