"""The executable ``retrieval_node``."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.utilities import get_default_context

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros import parameters
from vla_retrieval.ros.allocation import keep_large_blocks
from vla_retrieval.ros.logging_bridge import bridge_logging
from vla_retrieval.ros.node import RetrievalNode
from vla_retrieval.ros.spinning import Spinner, new_spinner
from vla_retrieval.ros.usage import read_command_line

_LONGEST_GOODBYE_SEC = 10.0  # once all is closed; it takes a second or two under load


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop.

    Returns:
        0 after Ctrl-C or SIGTERM, 1 where a parameter is refused or the automatic start fails.

    Raises:
        SystemExit: With 0 after ``--help``, with 2 where the command line is wrong.
    """
    read_command_line(sys.argv[1:] if args is None else args)
    # OpenMP's threads spin while they wait by default, which stalls inference next to a busy
    # process: 1700 ms an image against 90 ms (measured with one core hogged). It is read when
    # torch is loaded, which happens at configure.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_large_blocks()
    interrupts = _Interrupts()
    rclpy.init(args=args)
    try:
        return _run(interrupts)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        rclpy.try_shutdown()


def executable() -> NoReturn:
    """Run the node, and leave the process as soon as it has stopped.

    Everything is closed by then. Python would take the modules apart, which takes torch more than a
    second, and 14 s on two cores with twenty busy processes: `ros2 launch` loses patience after 5.
    """
    code = main()
    # Fast DDS may wait for ever for a callback of its own when a participant goes, with a core and
    # Python's lock taken (Fast-DDS issue 6513): only what needs no Python can end that.
    with suppress(RuntimeError, ValueError, OSError):  # where stderr is closed
        faulthandler.dump_traceback_later(_LONGEST_GOODBYE_SEC, exit=True)
    # Fast DDS takes its shared memory back with the context, which lives as long as the node, and
    # that is in circles of references: otherwise 17 MB stay in /dev/shm after each run.
    gc.collect()
    get_default_context(shutting_down=True).destroy()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Interrupts:
    """What Ctrl-C does beside shutting rclpy's context down, which ends the executor.

    While the node starts, it raises KeyboardInterrupt, which ends loading a model. Later it does
    nothing more: raised inside of rclpy's C++ it became a SystemError, and amid closing the memory
    it would do harm.
    """

    def __init__(self) -> None:
        """Install the handler; before rclpy does, which calls the one that was there."""
        self.raises = True
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self.raises:
            raise KeyboardInterrupt


def _run(interrupts: _Interrupts) -> int:
    try:
        node = RetrievalNode()
        # One thread takes messages; inference has its own. A multi-threaded executor had five
        # times the p90 latency of one with a single thread.
        spinner = new_spinner(node.settings.executor)
    except (ParameterException, InvalidInputError) as error:
        rclpy.logging.get_logger("retrieval").fatal(f"a parameter is refused: {error}")
        return 1
    bridge_logging(node.get_logger())
    spinner.executor.add_node(node)
    try:
        if node.get_parameter(parameters.AUTOSTART).value and not _start(node):
            # A context that is gone was shut down by a signal meanwhile: then nothing has failed.
            return 1 if node.context.ok() else 0
        interrupts.raises = False
        spin(spinner, node)
    finally:
        interrupts.raises = False
        node.close()
        spinner.executor.shutdown()
        node.destroy_node()
    return 0


def spin(spinner: Spinner, node: RetrievalNode) -> None:
    """Run callbacks until the end of the context; where one fails, the others go on.

    That is a defect, which the log and the diagnostics tell of; the robot keeps its memory.
    """
    while True:
        try:
            spinner.spin()
        except ExternalShutdownException:
            return
        except Exception as error:
            # A signal shuts the context down at any moment, also while the executor is between
            # two calls into it, and the next one fails with whatever it meets first.
            if not node.context.ok():
                return
            node.note_defect(error)
        else:
            return


def _start(node: RetrievalNode) -> bool:
    """Configure and activate; return whether that worked."""
    return (
        node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        and node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    )


if __name__ == "__main__":
    executable()
