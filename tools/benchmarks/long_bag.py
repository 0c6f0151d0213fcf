"""What an evaluation of a long bag costs: where its time goes, its RAM, and the size of its report.

``python -m tools.benchmarks.long_bag FRAMES [FRAMES ...]`` makes bags of so many frames from the
demonstration bag's episodes, again and again under later stamps, and evaluates each in a process of
its own. ``--model ViT-B-32`` takes random weights of that architecture, written to a local file
once: encoding costs what it costs with trained ones. RAM is sampled from outside: the anonymous
part, and with it the pages of files that are mapped, which the kernel takes away where it needs
them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from tools.benchmarks.machine import anonymous_bytes
from tools.soak.growth import ProcessMemory

_DEMO = Path(__file__).parents[2] / "demo"
_IMAGES = "/camera/image/compressed"
_SAMPLED_EVERY_SEC = 0.05
_NS_PER_SEC = 1_000_000_000
_SHIPPED = ("double", "vla-retrieval-demo")


def write_long_bag(target: Path, frames: int) -> None:
    """Write a bag of so many frames, of the demonstration bag's messages under later stamps."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(target, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {}
        seen = 0
        for topic, msgtype, stamp_ns, data in _endless():
            if seen == frames:
                break
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, msgtype, typestore=types)
            seen += topic == _IMAGES
            writer.write(topics[topic], stamp_ns, data)


def _endless() -> Iterator[tuple[str, str, int, bytes]]:
    with Reader(_DEMO / "bag") as reader:
        recorded = [(c.topic, c.msgtype, at, bytes(data)) for c, at, data in reader.messages()]
    length_ns = recorded[-1][2] - recorded[0][2] + _NS_PER_SEC
    turn = 0
    while True:
        for topic, msgtype, at, data in recorded:
            later = at + turn * length_ns
            yield topic, msgtype, later, _restamped(data, later) if topic == _IMAGES else data
        turn += 1


def _restamped(data: bytes, stamp_ns: int) -> bytes:
    """Return a message that begins with a header under another stamp.

    CDR: four bytes of encapsulation, then int32 seconds and uint32 nanoseconds.
    """
    order = "<" if data[1] & 1 else ">"
    return data[:4] + struct.pack(f"{order}iI", *divmod(stamp_ns, _NS_PER_SEC)) + data[12:]


def stored_bag(folder: Path, frames: int) -> Path:
    """Return a bag of so many frames that the folder keeps, written now if it is not there."""
    bag = folder / f"bag{frames}"
    if not bag.exists():
        partial = folder / f"bag{frames}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write_long_bag(partial, frames)
        partial.rename(bag)
    return bag


def measure(frames: int, model: str, folder: Path) -> dict[str, object]:
    """Evaluate a bag of so many frames in this process, and say what it took."""
    from tools.benchmarks.pipeline.bench import random_weights
    from vla_retrieval.encoders import DoubleEncoder, EncoderSettings, load_encoder
    from vla_retrieval.evaluation.splits import SplitOptions
    from vla_retrieval.experiments.folder import write_folder
    from vla_retrieval.experiments.offline import evaluate_bags
    from vla_retrieval.experiments.settings import ExperimentSettings

    bag = stored_bag(folder, frames)
    checkpoint = "" if model in _SHIPPED else str(random_weights(model, folder))
    settings = EncoderSettings(model=model, checkpoint=checkpoint, device="cpu")
    encoder = DoubleEncoder() if model == "double" else load_encoder(settings)
    loaded = anonymous_bytes() / 1e6
    labels = ExperimentSettings(
        split=SplitOptions(seed=1), relevance="labels", relevance_file=_DEMO / "tasks.yaml"
    )
    with tempfile.TemporaryDirectory(dir=folder) as work:
        outcome = evaluate_bags([bag], encoder, labels, Path(work) / "work")
        report = folder / f"report-{model}-{frames}"
        shutil.rmtree(report, ignore_errors=True)
        write_folder(outcome, report, f"{frames} frames")
    return {
        "frames": outcome.evaluation.counts["frames"],
        "model": model,
        "hash": outcome.evaluation.hash,
        "wall_sec": dict(outcome.evaluation.wall_sec),
        "loaded_mb": loaded,
        "page_bytes": (report / "index.html").stat().st_size,
        "page": str(report / "index.html"),
    }


def _in_a_process(frames: int, model: str, folder: Path) -> dict[str, object]:
    """Evaluate in a process of its own, and add what it held at most."""
    command = [sys.executable, "-m", "tools.benchmarks.long_bag", str(frames), "--here"]
    command += ["--model", model, "--folder", str(folder)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        ProcessMemory(process.pid, _SAMPLED_EVERY_SEC) as memory,
    ):
        said, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    resident, anonymous = memory.since(0.0)[1].max(axis=0) / 1e6
    return {**json.loads(said.splitlines()[-1]), "peak_mb": resident, "anonymous_mb": anonymous}


def _table(results: list[dict[str, object]]) -> Table:
    table = Table(title="evaluations of long bags", title_justify="left", box=None)
    for head in (
        "frames", "model", "wall, s", "encoding and searching", "anonymous RAM after loading, MB",
        "at most, MB", "with files, MB", "page, MB", "hash",
    ):  # fmt: skip
        table.add_column(head, justify="right")
    for one in results:
        wall = one["wall_sec"]
        assert isinstance(wall, dict)
        total = sum(wall.values())
        share = (wall["encoding"] + wall["searching"]) / total
        table.add_row(
            str(one["frames"]), str(one["model"]), f"{total:.1f}", f"{share:.1%}",
            f"{one['loaded_mb']:.0f}", f"{one['anonymous_mb']:.0f}", f"{one['peak_mb']:.0f}",
            f"{int(str(one['page_bytes'])) / 1e6:.2f}", str(one["hash"])[:12],
        )  # fmt: skip
    return table


def main() -> None:
    """Measure each length in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", type=int, nargs="+")
    parser.add_argument("--model", default="vla-retrieval-demo", help="or double, ViT-B-32, ...")
    parser.add_argument("--folder", type=Path, required=True, help="of bags, weights and reports")
    parser.add_argument("--here", action="store_true", help="in this process; print JSON")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.here:
        print(json.dumps(measure(args.frames[0], args.model, args.folder)))
        return
    results = []
    for frames in args.frames:
        results.append(_in_a_process(frames, args.model, args.folder))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    Console().print(_table(results))


if __name__ == "__main__":
    main()
