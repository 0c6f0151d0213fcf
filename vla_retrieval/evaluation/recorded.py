"""The picture in a recorded image message."""

from __future__ import annotations

from typing import Any

from vla_retrieval.evaluation.bags import Bag, Cursor, Place
from vla_retrieval.images import compressed_to_rgb, raw_to_rgb, rosbags_converter
from vla_retrieval.types import RgbImage


def picture_of(recorded: Any) -> RgbImage:
    """Return the picture in a recorded image message, raw or compressed, whatever decoded it.

    Returns:
        Uint8, shape ``(height, width, 3)``, RGB.

    Raises:
        InvalidInputError: If it turns out not to be one.
    """
    if hasattr(recorded, "encoding"):
        return raw_to_rgb(recorded, rosbags_converter())
    return compressed_to_rgb(recorded)


class RecordedPicture:
    """Reads one picture when it is called."""

    def __init__(self, bag: Bag, cursor: Cursor, place: Place) -> None:
        """Take where it is."""
        self._bag, self._cursor, self._place = bag, cursor, place

    def message(self) -> Any:
        """Return the message as it was recorded."""
        return self._bag.decode(self._cursor.read(self._place))

    def __call__(self) -> RgbImage:
        """Return the picture."""
        return picture_of(self.message())
