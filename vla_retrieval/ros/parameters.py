"""The node's parameters: each declared once, with description, range and unit.

``config/retrieval.yaml`` and the table of ``docs/parameters.md`` repeat them for people; a test
holds the three together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_retrieval.encoders.settings import ENGINES, PRECISIONS
from vla_retrieval.errors import InvalidInputError, did_you_mean
from vla_retrieval.memory import Eviction
from vla_retrieval.memory.options import INDEX_CHOICES
from vla_retrieval.ros.paths import Paths, expanded
from vla_retrieval.ros.spinning import EXECUTORS
from vla_retrieval.types import Similarity, Target

AUTOSTART = "autostart"
PATHS = ("memory_dir", "head", "checkpoint", "engine_cache_dir", "model")
_OF_TOPICS = "qos_overrides."  # rclpy's own, declared with each topic
BYTES_PER_KB = 1 << 10
BYTES_PER_MB = 1 << 20
_MOST_MB = 1 << 24  # 16 TB: in bytes it is far inside the 64 bits that messages and SQLite have
_MOST_ENTRIES = 1_000_000_000


@dataclass(frozen=True)
class Settings:
    """The parameters' values, as the node uses them; units are in the names."""

    memory_dir: str = "~/.ros/vla_retrieval/memory"
    durable: bool = True
    similarity: str = "cosine"
    thumbnail_px: int = 160
    head: str = ""
    index: str = "auto"
    index_memory_mb: int = 4096
    recall_target: float = 0.99
    search_threads: int = 1
    build_threads: int = 1
    max_entries: int = 0
    max_memory_mb: int = 0
    eviction: str = "oldest"
    merge_scene_similarity: float = 2.0
    merge_instruction_similarity: float = 0.999
    merge_within_sec: float = 0.0
    model: str = "vla-retrieval-demo"
    pretrained: str = ""
    checkpoint: str = ""
    device: str = "auto"
    engine: str = "auto"
    engine_cache_dir: str = ""
    precision: str = "auto"
    threads: int = 0
    image_transport: str = "raw"
    image_reliability: str = "best_effort"
    max_image_megapixels: int = 64
    frame_timeout_sec: float = 5.0
    query_mode: str = "frame"
    query_rate_hz: float = 2.0
    query_target: str = "pair"
    scene_weight: float = 0.5
    k: int = 5
    min_score: float = -1000.0
    query_diversity: float = 0.0
    with_thumbnails: bool = False
    remember_mode: str = "never"
    remember_interval_sec: float = 1.0
    max_waiting_requests: int = 32
    max_request_kb: int = 1024
    max_waiting_mb: int = 512
    worker_stall_sec: float = 60.0
    remote_paths_dir: str = ""
    executor: str = "auto"
    diagnostics_period_sec: float = 1.0

    @property
    def max_image_pixels(self) -> int:
        """Most pixels that an image may have."""
        return self.max_image_megapixels * 1_000_000

    @property
    def memory_path(self) -> Path:
        """The memory directory."""
        return Path(self.memory_dir).expanduser()

    @property
    def head_path(self) -> Path | None:
        """The head's file, or None."""
        return Path(self.head).expanduser() if self.head else None


@dataclass(frozen=True)
class Spec:
    """What one parameter means and which values it takes.

    Attributes:
        text: Description with the unit, for people.
        choices: The values a string may take; empty is any.
        low: Least value of a number.
        high: Greatest value of a number.
        live: Whether it may be changed while the node is configured.
        fixed: Whether it may not be changed at all after the start.
    """

    text: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    live: bool = False
    fixed: bool = False


_SIMILARITIES = tuple(similarity.value for similarity in Similarity)
_EVICTIONS = tuple(eviction.value for eviction in Eviction)
_TARGETS = tuple(target.value for target in Target)

SPECS: dict[str, Spec] = {
    "memory_dir": Spec("Directory that holds everything the node keeps; ~ is the home."),
    "durable": Spec("Wait for the disk before a pair counts as remembered (survives power loss)."),
    "similarity": Spec("How embeddings are compared.", choices=_SIMILARITIES),
    "thumbnail_px": Spec("Longer side of stored thumbnails, in pixels; 0: none.", high=1024),
    "head": Spec(
        "File of a learned head that projects embeddings before they are compared; empty: none.",
        live=True,
    ),
    "index": Spec(
        "How the memory is searched: exact compares everything, pq and pq_sq8 find most of the "
        "best sooner, the latter in less RAM, hash by binary codes; auto: by the number of "
        "entries. Below 2000 entries everything is compared in any case.",
        choices=INDEX_CHOICES,
    ),
    "index_memory_mb": Spec(
        "RAM for the index under index auto or hash, in MB of 2^20 bytes.", low=1, high=_MOST_MB
    ),
    "recall_target": Spec(
        "Share of the ten best that pq, pq_sq8 and hash are tuned to find, in each direction.",
        low=0.5,
        high=1,
    ),
    "search_threads": Spec("CPU threads of one search.", low=1, high=256),
    "build_threads": Spec(
        "CPU threads that build pq, pq_sq8 and hash in the background.", low=1, high=256
    ),
    "max_entries": Spec("Most entries that are kept; 0: no bound.", high=_MOST_ENTRIES),
    "max_memory_mb": Spec(
        "Most disk that entries may fill, in MB of 2^20 bytes; 0: no bound.", high=_MOST_MB
    ),
    "eviction": Spec(
        "Who goes when a bound is passed; pinned entries never do.", choices=_EVICTIONS
    ),
    "merge_scene_similarity": Spec(
        "Least cosine of two scenes that are near-duplicates; above 1: nothing is merged.",
        low=-1,
        high=2,
    ),
    "merge_instruction_similarity": Spec(
        "Least cosine of the instructions of two near-duplicates.", low=-1, high=2
    ),
    "merge_within_sec": Spec(
        "Most seconds between the stamps of two near-duplicates; 0: any time.", high=1e9
    ),
    "model": Spec(
        "open_clip model, with its weights' tag after a slash; "
        "the default is a demonstration model."
    ),
    "pretrained": Spec("open_clip pretrained tag, where model does not name it."),
    "checkpoint": Spec("Weights file (.safetensors, .pt, .bin) instead of a pretrained tag."),
    "device": Spec("Where the encoder runs: auto, cpu, cuda or cuda:N."),
    "engine": Spec(
        "What computes the encoder; auto: torch on a GPU, on a CPU the fastest that is installed "
        "and computes the same.",
        choices=ENGINES,
    ),
    "engine_cache_dir": Spec(
        "Folder for compiled engines; empty: vla_retrieval/engines in the user's cache."
    ),
    "precision": Spec(
        "Arithmetic of the encoder; auto: fp16 on a GPU, bf16 or fp32 on a CPU; int8 only when "
        "asked for.",
        choices=PRECISIONS,
    ),
    "threads": Spec("CPU threads of the encoder; 0: as many as the engine chooses.", high=256),
    "image_transport": Spec(
        "Which topic is read: image (raw) or image/compressed (compressed).",
        choices=("raw", "compressed"),
    ),
    "image_reliability": Spec(
        "QoS reliability asked of the camera; best_effort reads from any publisher.",
        choices=("best_effort", "reliable"),
    ),
    "max_image_megapixels": Spec(
        "Most pixels of an image, in millions; larger ones are refused before they are decoded.",
        low=1,
        high=1_000,
    ),
    "frame_timeout_sec": Spec(
        "Warn when publishers are there but no frame came for so many seconds.", low=0.5, high=3600
    ),
    "query_mode": Spec(
        "When the newest frame is asked about: at each frame, on a timer, or never.",
        choices=("frame", "timer", "never"),
        live=True,
    ),
    "query_rate_hz": Spec(
        "Rate of the timer in query_mode timer, in Hz.", low=0.01, high=1000, live=True
    ),
    "query_target": Spec("What published queries are compared with.", choices=_TARGETS, live=True),
    "scene_weight": Spec(
        "Weight of the scene against the instruction in published queries.", high=1, live=True
    ),
    "k": Spec("Most matches in a published answer.", low=1, high=10_000, live=True),
    "min_score": Spec("Least score of a published match.", low=-1000, high=1000, live=True),
    "query_diversity": Spec(
        "How much published matches avoid to resemble each other; 0: score alone.",
        high=1,
        live=True,
    ),
    "with_thumbnails": Spec("Fill the thumbnails of published matches.", live=True),
    "remember_mode": Spec(
        "Remember the newest frame with the current instruction as the node goes: "
        "never, or every remember_interval_sec.",
        choices=("never", "interval"),
        live=True,
    ),
    "remember_interval_sec": Spec(
        "Least time between two pairs of one episode that the node remembers itself, in seconds.",
        high=86_400,
        live=True,
    ),
    "max_waiting_requests": Spec(
        "Requests with a picture that may wait before new ones are refused; as many "
        "without one, and as many pairs to remember.",
        low=1,
        high=10_000,
    ),
    "max_request_kb": Spec(
        "Most that a request may carry beside its image, in kB of 2^10 bytes.", low=1, high=1 << 20
    ),
    "max_waiting_mb": Spec(
        "Most that waiting requests may hold together, images included, in MB of 2^20 bytes.",
        low=1,
        high=_MOST_MB,
    ),
    "worker_stall_sec": Spec(
        "Longest time at one request or frame, in seconds; then its inference thread counts as "
        "stalled and is replaced.",
        low=0.5,
        high=3600,
    ),
    "remote_paths_dir": Spec(
        "Directory that holds every file and folder named by a parameter that is set after the "
        "start; empty: memory_dir as it was at the start.",
        fixed=True,
    ),
    "executor": Spec(
        "How messages reach the node: by rclpy's EventsExecutor (events), sooner and experimental, "
        "or its SingleThreadedExecutor; auto: by events on Kilted, from rclpy 9.1.2 on.",
        choices=EXECUTORS,
        fixed=True,
    ),
    "diagnostics_period_sec": Spec(
        "Period of /diagnostics, in seconds.", low=0.1, high=3600, live=True
    ),
}


def declare(node: Node) -> None:
    """Declare every parameter on a node.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: If an override is out of its range.
        rclpy.exceptions.InvalidParameterTypeException: If it is of another type.
    """
    node.declare_parameter(
        AUTOSTART, True,
        ParameterDescriptor(description="Configure and activate at start, without being told.",
                            read_only=True),
    )  # fmt: skip
    node.add_on_set_parameters_callback(_check_choices)
    for field in dataclasses.fields(Settings):
        node.declare_parameter(field.name, field.default, _descriptor(field.name, field.default))


def not_declared(given: Iterable[str], declared: Iterable[str]) -> list[str]:
    """Return a line about each parameter that was given to a node and that it does not have.

    ROS 2 says nothing of them, and a bound with a letter too few is no bound.

    Args:
        given: Names.
        declared: Names of the node's own.
    """
    known = set(declared)
    lines = []
    for name in sorted(set(given) - known):
        if name.startswith(_OF_TOPICS):
            continue
        line = f"there is no parameter {name}: what was given for it is not used."
        lines.append(f"{line} {did_you_mean(name, known)}".rstrip())
    return lines


def paths_of(node: Node) -> Paths:
    """Return what paths mean that are set from now on, by the values that the node has now.

    Raises:
        InvalidInputError: If the directory that they are relative to is not known.
    """
    given = {name: str(node.get_parameter(name).value) for name in PATHS}
    name, root = "remote_paths_dir", str(node.get_parameter("remote_paths_dir").value)
    if not root:
        name, root = "memory_dir", given["memory_dir"]
    return Paths(expanded(name, root).absolute(), given)


def read(node: Node, paths: Paths) -> Settings:
    """Return the values of a node's parameters, with every path as it is to be opened.

    Raises:
        InvalidInputError: If a path leads where it may not, or nowhere.
    """
    values = {name: node.get_parameter(name).value for name in SPECS}
    values |= {name: paths.resolve(name, values[name]) for name in PATHS}
    return Settings(**values)


def read_again(node: Node, settings: Settings) -> Settings:
    """Return the values after a change; paths are as before, and read anew at configure."""
    names = [name for name in SPECS if name not in PATHS]
    return dataclasses.replace(settings, **{n: node.get_parameter(n).value for n in names})


def check_paths(changes: list[Parameter[Any]], paths: Paths) -> SetParametersResult:
    """Refuse paths that lead where they may not."""
    for change in changes:
        if change.name in PATHS:
            try:
                paths.resolve(change.name, str(change.value))
            except InvalidInputError as error:
                return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def refuse_unless_live(parameters: list[Parameter[Any]]) -> SetParametersResult:
    """Refuse changes that a configured node would not act on."""
    for parameter in parameters:
        spec = SPECS.get(parameter.name)
        if spec is not None and not spec.live:
            live = ", ".join(name for name, spec in SPECS.items() if spec.live)
            return SetParametersResult(
                successful=False,
                reason=f"{parameter.name} is read at configure: deactivate and clean up the node "
                f"first, or start it anew. While it runs you can change: {live}.",
            )
    return SetParametersResult(successful=True)


def _check_choices(parameters: list[Parameter[Any]]) -> SetParametersResult:
    for parameter in parameters:
        spec = SPECS.get(parameter.name)
        if spec is not None and spec.choices and parameter.value not in spec.choices:
            return SetParametersResult(
                successful=False,
                reason=f"{parameter.name}: expected one of {', '.join(spec.choices)}, "
                f"got {parameter.value!r}",
            )
    return SetParametersResult(successful=True)


def _descriptor(name: str, default: object) -> ParameterDescriptor:
    spec = SPECS[name]
    descriptor = ParameterDescriptor(description=spec.text, read_only=spec.fixed)
    if spec.choices:
        descriptor.additional_constraints = "one of " + ", ".join(spec.choices)
    elif isinstance(default, float):
        bounds = FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high))
        descriptor.floating_point_range = [bounds]
    elif isinstance(default, int) and not isinstance(default, bool):
        steps = IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)
        descriptor.integer_range = [steps]
    return descriptor
