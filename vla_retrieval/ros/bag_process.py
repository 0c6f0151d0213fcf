"""The commands ``ros2 bag info`` and ``ros2 bag play`` as child processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from vla_retrieval.errors import RetrievalError

NODE_NAME = "replay_bag"
CLOCK_HZ = 200
"""Messages of the clock a second: how finely the node can tell an image's age."""

_INFO_WITHIN_SEC = 60.0
# It takes one to two seconds; `ros2 launch` gives the caller five.
_STOP_WITHIN_SEC = 3.0
_ACKNOWLEDGED_WITHIN_MS = 5000
_TAIL_LINES = 8
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROGRESS = re.compile(r"=+ Playback Progress =+|\[[\d.]+\] Duration [\d.]+/[\d.]+ \[\w\]")
"""A line of the bar that the player draws from Kilted on, three times a second."""


def play_command(
    program: str,
    bag: Path,
    targets: Mapping[str, str],
    clock_topic: str,
    namespace: str,
    qos: Path,
    rate: float,
) -> list[str]:
    """Return the command line of a player that waits until it is told to go on.

    Args:
        program: The command ``ros2``.
        bag: A rosbag2 folder or file.
        targets: Topic in the bag -> topic in the graph, of all that is played.
        clock_topic: Where the clock goes.
        namespace: Of the player's node, which is called ``NODE_NAME``.
        qos: A file of QoS profiles by topic in the bag.
        rate: Speed, above 0.
    """
    renamed = {**targets, "/clock": clock_topic, "__node": NODE_NAME, "__ns": namespace}
    return [
        program, "bag", "play", str(bag),
        "--topics", *targets,
        "--remap", *(f"{old}:={new}" for old, new in renamed.items() if old != new),
        "--qos-profile-overrides-path", str(qos),
        "--rate", str(rate),
        "--clock", str(CLOCK_HZ),
        "--start-paused", "--disable-keyboard-controls",
        "--wait-for-all-acked", str(_ACKNOWLEDGED_WITHIN_MS),
    ]  # fmt: skip


def _bound_to_this_process(command: list[str]) -> list[str]:
    """Return a command that the kernel kills when this process dies; paused, it would stay."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or shutil.which(command[0]) is None:
        return command
    return [setpriv, "--pdeathsig", "KILL", *command]


def why_unreadable(program: str, bag: Path) -> str:
    """Return why ``ros2 bag`` cannot read a bag, by its own word; '' if it can."""
    command = [program, "bag", "info", str(bag)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_INFO_WITHIN_SEC
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`ros2 bag info {bag}` failed: {error}"
    if not done.returncode:
        return ""
    said = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return f"`ros2 bag info {bag}` failed: {said[-1].strip() if said else done.returncode}"


class BagProcess:
    """A player in a process group of its own, in a ``with`` statement.

    It is ended as Ctrl-C would end it, and killed if that does not help. Where ``setpriv`` of
    util-linux is installed, it also goes with a caller that is killed; the thread that enters the
    block has to live as long as the block.

    Args:
        command: Its command line.
        bag: What it plays, for errors.
        output: New file for what it prints.
    """

    def __init__(self, command: Sequence[str], bag: Path, output: Path) -> None:
        """Start nothing yet."""
        self._command = list(command)
        self._bag = bag
        self._output = output

    def __enter__(self) -> BagProcess:
        """Start it."""
        with self._output.open("wb") as file:
            try:
                # A group of its own: Ctrl-C reaches this process, which ends the player in order.
                self._process = subprocess.Popen(
                    _bound_to_this_process(self._command), stdin=subprocess.DEVNULL,
                    stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise RetrievalError(f"cannot run {self._command[0]}: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, and what is left of its group."""
        try:
            if not self.has_ended(0):
                os.killpg(self._process.pid, signal.SIGINT)
                self.has_ended(_STOP_WITHIN_SEC)
        finally:  # a second Ctrl-C ends the wait for it, and not for what it leaves behind
            with suppress(ProcessLookupError):  # nothing is left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def has_ended(self, within_sec: float) -> bool:
        """Return whether it ends in time."""
        try:
            self._process.wait(within_sec)
        except subprocess.TimeoutExpired:
            return False
        return True

    def check(self) -> None:
        """Raise RetrievalError if it has failed."""
        if self._process.poll():
            raise self.failed(self.ending)

    def check_running(self) -> None:
        """Raise RetrievalError if it has ended, however."""
        if self.has_ended(0):
            raise self.failed(f"it ended before it began to play, {self.ending}")

    @property
    def ending(self) -> str:
        """How it ended, as a clause.

        The exit code of a player that Ctrl-C ended, or that could not read on, is 0.
        """
        code = self._process.poll() or 0
        return f"signal {-code} ended it" if code < 0 else f"exit code {code}"

    def failed(self, reason: str) -> RetrievalError:
        """Return an error that says why playing failed, with the last that the player printed."""
        plain = _ESCAPE_SEQUENCE.sub("", self._output.read_text(errors="replace"))
        said = [line.strip() for line in plain.splitlines()]
        told = [line for line in said if line and not _PROGRESS.fullmatch(line)][-_TAIL_LINES:]
        text = "\n".join(f"  {line}" for line in told) or "  nothing"
        return RetrievalError(
            f"ros2 bag play {self._bag}: {reason}. It said last:\n{text}\n"
            "Take --player own, or play the bag by hand to see more."
        )
