"""How tools end the nodes that they have started."""

from __future__ import annotations

import signal
import subprocess


def ended(process: subprocess.Popen[bytes], within_sec: float) -> bool:
    """End a process as Ctrl-C does, or by force: what was measured is not lost with it.

    Returns:
        Whether it ended in time; else it was killed.
    """
    process.send_signal(signal.SIGINT)
    try:
        process.wait(within_sec)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
