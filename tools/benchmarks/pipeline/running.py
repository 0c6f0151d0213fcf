"""Processes beside the benchmark's own: a node in a domain of its own, one that hogs a core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from domain_coordinator import domain_id

from tools.benchmarks.pipeline.bench import Settings, memory_folder
from vla_retrieval.encoders import Encoder, EncoderSettings
from vla_retrieval.ros.ending import stop_process
from vla_retrieval.transport import large_image_environment

_HOG: Final = "while True: pass"
_STOP_SEC: Final = 60.0
_SHARE: Final = Path(__file__).parents[3]


@contextmanager
def copied_memory(settings: Settings, encoder: Encoder) -> Iterator[Path]:
    """Lend a copy of the filled memory: what a node writes does not stay in it."""
    copy = settings.work / "memory-of-a-node"
    shutil.rmtree(copy, ignore_errors=True)
    source = memory_folder(settings, encoder)
    subprocess.run(["cp", "-r", "--reflink=auto", str(source), str(copy)], check=True)
    try:
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


@contextmanager
def own_domain() -> Iterator[None]:
    """Give node and client a ROS domain of their own, and the shipped transport."""
    before = dict(os.environ)
    with domain_id() as number:
        os.environ["ROS_DOMAIN_ID"] = str(number)
        os.environ.update(large_image_environment(str(_SHARE)))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def running_node(
    encoder: EncoderSettings, memory_dir: Path, index: str
) -> Iterator[Callable[[], bool]]:
    """Start a node; lend what tells whether it still runs."""
    values = {
        "model": encoder.model, "checkpoint": encoder.checkpoint, "device": encoder.device,
        "engine": encoder.engine, "engine_cache_dir": encoder.engine_cache_dir,
        "precision": encoder.precision, "threads": encoder.threads,
        "memory_dir": memory_dir.resolve(), "index": index,
    }  # fmt: skip
    command = [sys.executable, "-m", "vla_retrieval.ros.main", "--ros-args", "--log-level", "warn"]
    for name, value in values.items():
        if value != "":
            command += ["-p", f"{name}:={value}"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield lambda: process.poll() is None
    finally:
        if not stop_process(process, _STOP_SEC):
            print(f"the node did not end within {_STOP_SEC:g} s of SIGINT, and was killed")


@contextmanager
def hogged_core(is_wanted: bool) -> Iterator[None]:
    """Keep one core busy with another process, if that is wanted."""
    if not is_wanted:
        yield
        return
    # In a session of its own, as a robot's other nodes are: Linux shares the cores among sessions
    # first (sched(7), "The autogroup feature"), and the clients of the node are in this one.
    process = subprocess.Popen([sys.executable, "-c", _HOG], start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()
