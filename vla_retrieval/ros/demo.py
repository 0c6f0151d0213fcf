"""The demonstration: a node, a bag and questions, as two processes on a real graph."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rclpy.serialization import deserialize_message
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sensor_msgs.msg import CompressedImage

from vla_retrieval.contact_sheet import draw_contact_sheet
from vla_retrieval.errors import RetrievalError
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns
from vla_retrieval.ros.ending import stop_process
from vla_retrieval.ros.images import to_rgb
from vla_retrieval.ros.play import progress_bar
from vla_retrieval.ros.player import BagPlayer, Progress
from vla_retrieval.shipped import find_shipped
from vla_retrieval.types import Entry, Match, RgbImage
from vla_retrieval_msgs import msg as messages

_NAMESPACE = "vla_retrieval_demo"
_IMAGES, _INSTRUCTIONS = "/camera/image/compressed", "/instruction"
_QUESTIONS = ("pick up the cup on the table", "拿起桌子上的杯子")
_START_WITHIN_SEC = 300.0
_STOP_WITHIN_SEC = 20.0
# Longer than the shipped bag's episodes, so that each is remembered once.
_REMEMBER_INTERVAL_SEC = 4.0
_K = 6


def run_demo(
    bag: Path | None,
    rate: float,
    output_dir: Path,
    more: Sequence[str],
    model: Mapping[str, str],
) -> int:
    """Play, ask, print, draw; return 0 when every question was answered.

    Args:
        bag: A bag with the shipped bag's topics; None is the shipped one.
        rate: Speed of the bag.
        output_dir: Gets ``demo_memory/``, ``node.log`` and ``contact_sheet.png``.
        more: Instructions to ask besides the usual ones.
        model: Parameters of the node that choose another model than the shipped one.
    """
    console = Console()
    memory_dir = output_dir / "demo_memory"  # is emptied: not the name of a robot's
    log_path = output_dir / "node.log"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(memory_dir, ignore_errors=True)
        bag = bag or find_shipped("bag")
        with (
            _node_process(memory_dir, log_path, model) as process,
            RetrievalClient(_NAMESPACE) as client,
        ):
            console.print("[bold]1[/]  Starting the node: loading CLIP, opening the memory")
            started = time.monotonic()
            if not client.wait_until_active(lambda: process.poll() is None, _START_WITHIN_SEC):
                late = f" within {_START_WITHIN_SEC:g} s" if process.poll() is None else ""
                console.print(
                    f"[red]The node did not start{late}. Its log, {log_path}, ends with:[/]"
                )
                console.print(_tail(log_path), markup=False)
                return 1
            console.print(f"   active after {time.monotonic() - started:.1f} s")
            console.print(f"[bold]2[/]  Playing {bag.name} at {rate:g} times its speed")
            latencies = _play(client, bag, rate, _ended(process))
            _print_facts(console, client, latencies)
            console.print("[bold]3[/]  Asking")
            sheets = _ask(console, client, [*_QUESTIONS, *more])
            picture = output_dir / "contact_sheet.png"
            Image.fromarray(_stack(sheets)).save(picture)
    except (RetrievalError, OSError) as error:  # the latter also where something takes too long
        console.print(str(error), style="red", markup=False)
        return 1
    console.print(f"[bold]4[/]  Look at {picture}; the node's log is {log_path}")
    return 0


@contextmanager
def _node_process(
    memory_dir: Path, log_path: Path, model: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the node in a process group of its own, and end it as Ctrl-C would."""
    parameters = {
        "memory_dir": memory_dir.resolve(),
        "image_transport": "compressed",
        "remember_mode": "interval",
        "remember_interval_sec": _REMEMBER_INTERVAL_SEC,
        "k": _K,
        # Compiling another engine takes longer than all of the demonstration.
        "engine": "torch",
        **model,
    }
    command = [sys.executable, "-m", "vla_retrieval.ros.main", "--ros-args"]
    command += ["-r", f"__ns:=/{_NAMESPACE}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            stop_process(process, _STOP_WITHIN_SEC)


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _ended(process: subprocess.Popen[bytes]) -> threading.Event:
    """Return an event that is set when the process has ended."""
    ended = threading.Event()

    def watch() -> None:
        process.wait()
        ended.set()

    threading.Thread(target=watch, name="watch", daemon=True).start()
    return ended


def _play(client: RetrievalClient, bag: Path, rate: float, stop: threading.Event) -> list[float]:
    """Play the bag; return the seconds from each image sent to its matches received.

    Raises:
        RetrievalError: If the node ended meanwhile.
    """
    sent: dict[int, float] = {}
    latencies: list[float] = []

    def on_matches(message: messages.MatchArray) -> None:
        begin = sent.get(to_ns(message.header.stamp))
        if begin is not None:
            latencies.append(time.perf_counter() - begin)

    client.node.create_subscription(messages.MatchArray, "retrieval/matches", on_matches, 10)
    topics = {_IMAGES: "image/compressed", _INSTRUCTIONS: "instruction"}
    player = BagPlayer(client.node, bag, topics)
    with progress_bar() as bar:
        task = bar.add_task("   waiting for the node", total=player.total)
        player.wait_for_subscribers(stop)

        def report(played: Progress) -> None:
            bar.update(task, completed=played.played, description="   playing")

        def on_sending(topic: str, data: bytes) -> None:
            if topic == _IMAGES:
                header = deserialize_message(data, CompressedImage).header
                sent[to_ns(header.stamp)] = time.perf_counter()

        player.play(rate, stop, report, on_sending)
    if stop.is_set():
        raise RetrievalError("the node ended while the bag was played; its log says why")
    return latencies


def _print_facts(console: Console, client: RetrievalClient, latencies: list[float]) -> None:
    stats = client.call("get_stats")
    console.print(
        f"   {stats.frames_received} frames received, {stats.memory_size} pairs remembered "
        f"({stats.size_bytes / 1e6:.1f} MB), model {stats.model} on {stats.device}"
    )
    if len(latencies) > 1:
        deciles = statistics.quantiles(latencies, n=10)
        console.print(
            f"   image published to matches received: median "
            f"{1e3 * statistics.median(latencies):.0f} ms, p90 {1e3 * deciles[-1]:.0f} ms, "
            f"n = {len(latencies)}"
        )


def _ask(console: Console, client: RetrievalClient, questions: Sequence[str]) -> list[RgbImage]:
    """Ask for scenes by instruction, and for instructions by the newest frame."""
    sheets = []
    for question in questions:
        answer = _checked(client.call("retrieve", instruction=question, k=_K, with_thumbnails=True))
        console.print(_table(f"instruction → scenes: {question}", answer))
        sheets.append(draw_contact_sheet(None, question, _matches(answer)))
    # The scene that the robot sees now has been remembered: what is like it from before?
    newest = client.call("retrieve", use_newest_frame=True, k=1, with_thumbnails=True)
    before = _checked(newest).result.matches
    if not before:
        raise RetrievalError(
            f"nothing was remembered: expected images on {_IMAGES} while an instruction of"
            f" {_INSTRUCTIONS} was in force, got none. Give another bag."
        )
    targets = messages.Query.TARGET_INSTRUCTIONS
    answer = _checked(
        client.call("retrieve", use_newest_frame=True, target=targets, k=_K, with_thumbnails=True)
    )
    console.print(_table("newest frame → instructions", answer))
    thumbnail = to_rgb(before[0].thumbnail, "thumbnail")
    sheets.append(draw_contact_sheet(thumbnail, "(by image alone)", _matches(answer)))
    return sheets


def _checked(response: Any) -> Any:
    if not response.success:
        raise RetrievalError(response.message)
    return response


def _table(title: str, answer: Any) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    # Folded and not cut: Chinese has no spaces to break at.
    table.add_column("what was said there", overflow="fold", ratio=1)
    table.add_column("entry", justify="right")
    for match in answer.result.matches:
        table.add_row(
            str(match.rank), f"{match.score:.3f}", escape(match.instruction), str(match.entry_id)
        )
    times = answer.result.times
    table.caption = f"{answer.result.memory_size} entries, {1e3 * times.total_sec:.1f} ms"
    table.caption_justify = "left"
    return table


def _matches(answer: Any) -> list[Match]:
    return [
        Match(
            Entry(
                instruction=m.instruction,
                stamp_ns=to_ns(m.stamp),
                thumbnail=bytes(m.thumbnail.data),
                entry_id=m.entry_id,
            ),
            m.rank,
            m.score,
        )
        for m in answer.result.matches
    ]


def _stack(sheets: Sequence[RgbImage]) -> RgbImage:
    """Put pictures below each other, padded on the right with their own background."""
    width = max(sheet.shape[1] for sheet in sheets)
    padded = []
    for sheet in sheets:
        canvas = np.empty((sheet.shape[0], width, 3), np.uint8)
        canvas[:] = sheet[0, 0]
        canvas[:, : sheet.shape[1]] = sheet
        padded.append(canvas)
    return np.concatenate(padded)
