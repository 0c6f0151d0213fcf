"""The middleware setting without which large images do not arrive, for launch files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_FILE = "fastdds_large_images.xml"
_PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
_PROFILES_BEFORE_KILTED = "FASTRTPS_DEFAULT_PROFILES_FILE"
_BEFORE_KILTED = ("humble", "iron", "jazzy")
_CHOICES = (_PROFILES, _PROFILES_BEFORE_KILTED, "FASTDDS_BUILTIN_TRANSPORTS")


def large_image_environment(
    share: str, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables to set so that Fast DDS carries large images.

    Args:
        share: The package's share folder, which holds the profile.
        environment: The environment to look at; this process's by default.

    Returns:
        One variable, or none where the user has chosen a transport already.
    """
    environment = os.environ if environment is None else environment
    if any(environment.get(name) for name in _CHOICES):
        return {}
    old = environment.get("ROS_DISTRO") in _BEFORE_KILTED
    return {_PROFILES_BEFORE_KILTED if old else _PROFILES: str(Path(share) / "config" / _FILE)}
