"""The middleware setting for large images follows the distribution and spares a user's choice."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from vla_retrieval.transport import large_image_environment

SHARE = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_the_shipped_profile_is_named_as_the_distribution_reads_it(
    distribution: str, variable: str
) -> None:
    (setting,) = large_image_environment(str(SHARE), {"ROS_DISTRO": distribution}).items()
    assert setting[0] == variable
    assert Path(setting[1]).is_file()


@pytest.mark.parametrize(
    "chosen",
    [
        "FASTDDS_BUILTIN_TRANSPORTS",
        "FASTDDS_DEFAULT_PROFILES_FILE",
        "FASTRTPS_DEFAULT_PROFILES_FILE",
    ],
)
def test_a_transport_that_the_user_chose_is_left_alone(chosen: str) -> None:
    assert large_image_environment(str(SHARE), {chosen: "mine"}) == {}


def test_the_profiles_segment_holds_two_full_hd_images() -> None:
    tree = ElementTree.parse(SHARE / "config" / "fastdds_large_images.xml")
    (segment,) = tree.iter("{http://www.eprosima.com}segment_size")
    assert int(segment.text or "") >= 2 * 1920 * 1080 * 3
