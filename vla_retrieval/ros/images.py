"""Image messages to RGB arrays and back, in the node.

Where ``cv_bridge`` is installed it converts, else ``rosbags-image``; ``vla_retrieval/images.py``
has all the rest, and says why the result is the same from either.
"""

from __future__ import annotations

import logging
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.images import (
    MAX_PIXELS,
    Converter,
    compressed_to_rgb,
    raw_to_rgb,
    rosbags_converter,
)
from vla_retrieval.types import RgbImage

_log = logging.getLogger(__name__)


def to_rgb(
    message: Image | CompressedImage, field: str = "image", max_pixels: int = MAX_PIXELS
) -> RgbImage:
    """Return the picture in an image message.

    Args:
        message: Raw or compressed.
        field: Name of the message for errors.
        max_pixels: Most pixels that it may have.

    Returns:
        Uint8, shape ``(height, width, 3)``, RGB. It may share the message's memory.

    Raises:
        InvalidInputError: If the message is empty, malformed, too large or of an unknown encoding.
    """
    if isinstance(message, CompressedImage):
        return compressed_to_rgb(message, field, max_pixels)
    return raw_to_rgb(message, _converter(), field, max_pixels)


def is_empty(message: Image | CompressedImage) -> bool:
    """Whether the message carries no image at all, as in a request that leaves it out."""
    if isinstance(message, CompressedImage):
        return not len(message.data)
    return not (len(message.data) or message.height or message.width or message.encoding)


def to_image_message(image: RgbImage, message: Image) -> Image:
    """Fill a message, whose header is left alone, with an RGB picture.

    Assigning bytes is what makes it quick: an array is checked element by element.
    """
    message.height, message.width = image.shape[:2]
    message.encoding = "rgb8"
    message.step = 3 * image.shape[1]
    message.is_bigendian = 0
    message.data = image.tobytes()
    return message


_chosen: list[Converter] = []


def _converter() -> Converter:
    """Return cv_bridge's conversion where it is installed, else that of rosbags-image."""
    if not _chosen:
        try:
            _chosen.append(cv_bridge_converter())
        except ImportError as error:
            _log.info("images are converted by rosbags-image (%s)", error)
            _chosen.append(rosbags_converter())
    return _chosen[0]


def cv_bridge_converter() -> Converter:
    """Return a conversion through cv_bridge.

    Raises:
        ImportError: If the real cv_bridge is not installed. The package of that name on PyPI
            is a port of ROS 1's 1.13 that gives other results.
    """
    from cv_bridge import CvBridge

    try:
        version = metadata.version("cv_bridge")
    except metadata.PackageNotFoundError:
        version = "unknown"
    if version.startswith("1."):
        raise ImportError(f"cv_bridge {version} is a ROS 1 port: uninstall it")
    _refuse_other_numpy()
    bridge = CvBridge()

    def convert(pixels: NDArray[np.uint8], encoding: str) -> RgbImage:
        height, width, channels = pixels.shape
        message = Image(height=height, width=width, encoding=encoding, step=width * channels)
        message.data = pixels.tobytes()
        return cast("RgbImage", bridge.imgmsg_to_cv2(message, "rgb8"))

    return convert


def _refuse_other_numpy() -> None:
    """Raise ImportError for a cv_bridge that is compiled for NumPy 1 and meets NumPy 2.

    It can be imported and ends the process at its first conversion, which no exception reports
    (ros-perception/vision_opencv issue 535). NumPy 2's headers leave their module's name in what
    is compiled with them.
    """
    compiled = find_spec("cv_bridge.boost.cv_bridge_boost")
    if np.lib.NumpyVersion(np.__version__) < "2.0.0" or not (compiled and compiled.origin):
        return
    if b"numpy._core" not in Path(compiled.origin).read_bytes():
        raise ImportError(f"cv_bridge is compiled for NumPy 1, and this is {np.__version__}")
