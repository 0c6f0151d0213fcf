"""The library's log, through the node's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rclpy.logging import LoggingSeverity

if TYPE_CHECKING:
    from rclpy.impl.rcutils_logger import RcutilsLogger


class RosHandler(logging.Handler):
    """Passes records on to a ROS logger."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Pass on to a logger."""
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on at its level; one that cannot be goes to stderr."""
        try:
            self._pass_on(record)
        except Exception:  # as every handler does: what is said must not harm who says it
            self.handleError(record)

    def _pass_on(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # rclpy keys its filters by call site and refuses a site that changes its level,
        # so each level has a line of its own.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def bridge_logging(logger: RcutilsLogger) -> None:
    """Send the library's log records to a ROS logger: from INFO on, or all where it shows DEBUG."""
    library = logging.getLogger("vla_retrieval")
    shows_debug = logger.get_effective_level() <= LoggingSeverity.DEBUG
    library.setLevel(logging.DEBUG if shows_debug else logging.INFO)
    library.propagate = False
    library.handlers = [RosHandler(logger)]
