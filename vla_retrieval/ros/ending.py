"""How the demonstration and tools end the nodes that they have started."""

from __future__ import annotations

import signal
import subprocess


def stop_process(process: subprocess.Popen[bytes], within_sec: float) -> bool:
    """End a process as Ctrl-C does, or by force, so that whoever started it goes on.

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
